//! `qbench plugin check`: good plugins pass, and every way to go wrong is named.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use assert_cmd::Command;
use qbench_tests::{fails, plugin, qbench, stderr, stdout};
use serde_json::Value;

fn check(file: &Path) -> Command {
    let mut command = qbench();
    command.args(["plugin", "check"]).arg(file);
    command
}

/// All findings of `--json`, as (subject, case, verdict, detail).
fn findings(command: &mut Command, code: i32) -> Vec<[String; 4]> {
    let output = command.arg("--json").output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "qbench.plugin-check/1");
    assert_eq!(report["passed"], code == 0);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let subjects = report["subjects"].as_array().unwrap().iter();
    subjects
        .flat_map(|subject| {
            let findings = subject["findings"].as_array().unwrap().iter();
            findings.map(move |finding| {
                [
                    &subject["id"],
                    &finding["case"],
                    &finding["verdict"],
                    &finding["detail"],
                ]
                .map(text)
            })
        })
        .collect()
}

#[test]
fn the_built_in_plugins_conform() {
    let modes = findings(&mut check(&plugin("libqbench_modes.so")), 0);
    for id in ["standard", "8bit", "4bit_nf4", "4bit_fp4", "4bit_nf4_double"] {
        let of = |finding: &&[String; 4]| finding[0] == id;
        assert_eq!(modes.iter().filter(of).count(), 18, "{id}");
    }
    let cpu = findings(&mut check(&plugin("libqbench_cpu.so")), 0);
    assert!(cpu.iter().all(|finding| finding[2] == "pass"), "{cpu:?}");
    let any = cpu
        .iter()
        .find(|finding| finding[1] == "runs-any-codebook")
        .unwrap();
    assert!(any[3].starts_with("32 variants: native: "), "{any:?}");
    let kinds = cpu
        .iter()
        .find(|finding| finding[1] == "negotiation-is-true")
        .unwrap();
    assert!(kinds[3].contains("qbench.scaled-fp8/1: native"), "{kinds:?}");
}

#[test]
fn each_misdeed_is_found_and_named() {
    let file = plugin("libtestplugin_misbehaving.so");
    for (fault, case, words) in [
        (
            "panic",
            "quantize-deterministic",
            "panicked: the test asked for a panic",
        ),
        (
            "error",
            "quantize-deterministic",
            "unsupported: the test asked for an error",
        ),
        ("segv", "quantize-deterministic", "it died of signal 11"),
        ("abort", "quantize-deterministic", "it died of signal 6"),
        (
            "exit",
            "quantize-deterministic",
            "ended with exit code 0 without leaving a result",
        ),
        ("sizes", "layout-is-pure", "a 1 x 1 matrix of f32 is of 0 x 1"),
        (
            "overrun",
            "buffers-not-overrun",
            "wrote past the end of buffer `weight`",
        ),
    ] {
        let mut command = check(&file);
        command
            .env("QBENCH_TEST_QUANTIZE_FAULT", fault)
            .args(["--case", case]);
        let found = findings(&mut command, 1);
        let [_, name, verdict, detail] = found.last().unwrap();
        assert_eq!([name.as_str(), verdict.as_str()], [case, "fail"], "{fault}");
        assert!(detail.contains(words), "{fault}: {detail}");
    }
    // The plugin sleeps for an hour: whatever else the machine does, the limit ends it.
    let mut command = check(&file);
    command.env("QBENCH_TEST_QUANTIZE_FAULT", "hang").args([
        "--case",
        "reconstruction",
        "--case-timeout",
        "1",
    ]);
    let found = findings(&mut command, 1);
    assert!(
        found.last().unwrap()[3].contains("ran longer than 1 s"),
        "{found:?}"
    );
}

#[test]
fn files_that_are_no_plugin_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let compiled = |name: &str, options: &[&str]| {
        let path = folder.path().join(name);
        let mut compiler = std::process::Command::new("cc");
        let source = write("nothing.c", b"int nothing(void) { return 0; }\n");
        compiler.args(options).arg("-o").arg(&path).arg(source);
        assert!(compiler.status().unwrap().success());
        path
    };
    let good = fs::read(plugin("libtestplugin_misbehaving.so")).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // e_machine: AArch64, or x86-64 where that is this machine. e_ident[EI_CLASS]: 32 bits.
    let machine: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let (foreign, narrow) = (changed(18, &machine.to_le_bytes()), changed(4, &[1]));
    for (file, words) in [
        (
            write("empty.so", b""),
            "expected a shared library (ELF), found an empty file",
        ),
        (
            write("text.so", b"no library at all"),
            "expected a shared library (ELF), found text",
        ),
        (
            write("bytes.so", &[0; 100]),
            "expected a shared library (ELF), found another file",
        ),
        (write("archive.so", b"!<arch>\nand so on, 20 bytes"), "crate-type"),
        (write("foreign.so", &foreign), "expected a shared library for"),
        (write("narrow.so", &narrow), "expected a 64-bit shared library"),
        (
            write("magic.so", &good[..10]),
            "found the first 10 of it: the file was cut short",
        ),
        (
            write("header.so", &good[..64]),
            "found the first 64 of it: the file was cut short",
        ),
        (
            write("half.so", &good[..good.len() / 2]),
            "the file was cut short; build or copy it again",
        ),
        (
            compiled("object.so", &["-c"]),
            "an object file (.o) that is not linked",
        ),
        (
            compiled("other.so", &["-shared", "-fPIC"]),
            "without the function qbench_plugin_v1 (C): a plugin in Rust ends with `export_plugin!`",
        ),
        (
            plugin("libtestplugin_other_abi.so"),
            "plugin ABI 2.0.0, this qbench loads 1.x: build it against a matching qbench-sdk",
        ),
    ] {
        let found = findings(&mut check(&file), 3);
        assert_eq!(found[0][1..3], ["opens", "fail"]);
        assert!(found[0][3].contains(words), "{}: {found:?}", file.display());
        // The same words from the other command that takes a file.
        fails(qbench().args(["plugin", "info"]).arg(&file), 3, &[words]);
    }
}

#[test]
fn a_plugin_that_fails_while_it_is_loaded_is_named() {
    for (fault, words) in [
        ("panic", "panicked: the test asked for a panic"),
        ("exit", "ended with exit code 0 without leaving a result"),
        ("abort", "it died of signal 6"),
    ] {
        let mut command = check(&plugin("libtestplugin_misbehaving.so"));
        let found = findings(command.env("QBENCH_TEST_FAULT", fault), 3);
        assert!(found[0][3].contains(words), "{fault}: {found:?}");
    }
    fails(
        check(&plugin("libqbench_modes.so")).args(["--case", "no-such-case"]),
        2,
        &["no case `no-such-case`", "row-ranges"],
    );
}

#[test]
fn files_that_are_not_there_or_not_safe_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (file, words) in [
        (folder.path().join("nothing.so"), "cannot be opened: No such file"),
        (
            folder.path().to_owned(),
            "expected a shared library, found a directory",
        ),
    ] {
        assert!(
            findings(&mut check(&file), 2)[0][3].contains(words),
            "{}",
            file.display()
        );
        fails(qbench().args(["plugin", "info"]).arg(&file), 2, &[words]);
    }
    // Who could change it is asked before what it is.
    let writable = folder.path().join("writable.so");
    fs::write(&writable, b"").unwrap();
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o757)).unwrap();
    let link = folder.path().join("link.so");
    symlink(&writable, &link).unwrap();
    let pipe = folder.path().join("pipe.so");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for (file, words) in [
        (&writable, "writable.so may be written by everybody (mode 757)"),
        (&link, "writable.so may be written by everybody (mode 757)"),
        (&pipe, "no regular file"),
    ] {
        assert!(
            findings(&mut check(file), 2)[0][3].contains(words),
            "{}",
            file.display()
        );
        fails(qbench().args(["plugin", "info"]).arg(file), 2, &[words]);
    }
}

#[test]
fn people_read_what_was_expected() {
    let mut command = check(&plugin("libtestplugin_misbehaving.so"));
    command.env("QBENCH_TEST_QUANTIZE_FAULT", "overrun");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for words in [
        "mode misbehaving",
        "FAIL  buffers-not-overrun",
        "expected: nothing but the buffers and the output is written",
        "the plugin does not conform: ",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
}
