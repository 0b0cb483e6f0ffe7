//! `qbench plugin check`: good plugins pass, and every way to go wrong is named.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::Path};

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
    let mut foreign = fs::read(plugin("libtestplugin_misbehaving.so")).unwrap();
    // e_machine: AArch64, or x86-64 where that is this machine.
    let machine: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    foreign[18..20].copy_from_slice(&machine.to_le_bytes());
    for (file, words) in [
        (
            write("text.so", b"no library at all"),
            "expected a shared library (ELF), found another file",
        ),
        (write("archive.so", b"!<arch>\nand so on, 20 bytes"), "crate-type"),
        (write("foreign.so", &foreign), "expected a shared library for"),
        (
            plugin("libtestplugin_other_abi.so"),
            "plugin ABI 2.0.0, this qbench loads 1.x",
        ),
    ] {
        let found = findings(&mut check(&file), 3);
        assert_eq!(found[0][1..3], ["opens", "fail"]);
        assert!(found[0][3].contains(words), "{}: {found:?}", file.display());
    }
    for (fault, words) in [
        ("panic", "panicked: the test asked for a panic"),
        ("exit", "ended with exit code 0 without leaving a result"),
        ("abort", "it died of signal 6"),
    ] {
        let mut command = check(&plugin("libtestplugin_misbehaving.so"));
        let found = findings(command.env("QBENCH_TEST_FAULT", fault), 3);
        assert!(found[0][3].contains(words), "{fault}: {found:?}");
    }
    fails(&mut check(&folder.path().join("nothing.so")), 2, &[]);
    fails(
        check(&plugin("libqbench_modes.so")).args(["--case", "no-such-case"]),
        2,
        &["no case `no-such-case`", "row-ranges"],
    );
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
