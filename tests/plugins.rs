//! Discovery: what is found, what is refused and why, and that no file takes the host down.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use qbench_tests::{fails, plugin, qbench, stdout};
use tempfile::TempDir;

fn list(directory: &Path, fault: &str) -> serde_json::Value {
    let mut command = qbench();
    command
        .args(["plugin", "list", "--json", "--plugin-dir"])
        .arg(directory)
        .env("QBENCH_TEST_FAULT", fault);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The reason for which the only other file of `directory` is refused.
fn refusal(directory: &TempDir, fault: &str) -> String {
    let listed = list(directory.path(), fault);
    let refused = listed["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 1, "{listed}");
    assert!(
        refused[0]["path"]
            .as_str()
            .unwrap()
            .starts_with(directory.path().to_str().unwrap())
    );
    // The built-in plugins are found all the same.
    assert_eq!(listed["files"].as_array().unwrap().len(), 2, "{listed}");
    refused[0]["reason"].as_str().unwrap().to_owned()
}

fn directory_with(name: &str, content: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(name), content).unwrap();
    directory
}

fn directory_with_plugin(file: &str) -> TempDir {
    directory_with("libqbench_fixture.so", &fs::read(plugin(file)).unwrap())
}

#[test]
fn the_built_in_plugins_are_listed_with_what_they_offer() {
    let output = qbench().args(["plugin", "list"]).output().unwrap();
    let text = stdout(&output);
    for word in [
        "4bit_nf4_double (also nf4_double)",
        "standard",
        "backend  cpu",
        "device cpu",
        "libqbench_modes.so",
        "sha256",
    ] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains("refused"), "{text}");
}

#[test]
fn a_file_that_is_no_library_is_refused() {
    let reason = refusal(&directory_with("libqbench_text.so", b"no library at all"), "");
    assert!(reason.contains("expected a shared library"), "{reason}");
    // An ELF header and nothing that it points to.
    let start = &fs::read(plugin("libtestplugin_misbehaving.so")).unwrap()[..4096];
    // The system's loader would read past the end of the mapped file and die of it.
    let reason = refusal(&directory_with("libqbench_start.so", start), "");
    assert!(
        reason.contains("found the first 4096 of it: the file was cut short"),
        "{reason}"
    );
}

#[test]
fn a_library_that_is_no_plugin_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("empty.c");
    fs::write(&source, "int nothing(void) { return 0; }\n").unwrap();
    let mut compiler = std::process::Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(directory.path().join("libqbench_c.so"))
        .arg(&source);
    assert!(compiler.status().unwrap().success());
    let reason = refusal(&directory, "");
    assert!(reason.contains("without a plugin header"), "{reason}");
    assert!(reason.contains("qbench_plugin_v1"), "{reason}");
}

#[test]
fn another_version_of_the_abi_is_refused_in_one_line() {
    let reason = refusal(&directory_with_plugin("libtestplugin_other_abi.so"), "");
    assert!(
        reason.contains("plugin ABI 2.0.0, this qbench loads 1.x"),
        "{reason}"
    );
    assert_eq!(reason.lines().count(), 1);
}

#[test]
fn a_plugin_that_fails_while_it_is_loaded_is_refused() {
    let directory = directory_with_plugin("libtestplugin_misbehaving.so");
    for (fault, expected) in [
        ("panic", "panicked: the test asked for a panic"),
        ("abort", "it died of signal 6"),
        ("exit", "ended with exit code 0 without leaving a result"),
    ] {
        let reason = refusal(&directory, fault);
        assert!(reason.contains(expected), "{fault}: {reason}");
    }
    assert_eq!(list(directory.path(), "")["files"].as_array().unwrap().len(), 3);
}

#[test]
fn a_file_that_everybody_may_write_is_refused() {
    let directory = directory_with_plugin("libtestplugin_misbehaving.so");
    let file = directory.path().join("libqbench_fixture.so");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refusal(&directory, "").contains("may be written by everybody"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refusal(&directory, "").contains("may be written by everybody"));
}

/// Not even where the places to look in are given relative to it.
#[test]
fn nothing_is_loaded_from_the_working_directory() {
    let directory = directory_with_plugin("libtestplugin_misbehaving.so");
    let data = directory.path().join(".local/share/qbench/plugins");
    fs::create_dir_all(&data).unwrap();
    fs::copy(
        directory.path().join("libqbench_fixture.so"),
        data.join("libqbench_fixture.so"),
    )
    .unwrap();
    let mut command = qbench();
    command
        .args(["plugin", "list", "--json"])
        .current_dir(directory.path())
        .env("QBENCH_PLUGIN_PATH", ":.")
        .env("XDG_DATA_HOME", ".local/share")
        .env("HOME", "");
    let output = command.output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["files"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["refused"].as_array().unwrap().len(), 0, "{listed}");
}

#[test]
fn a_link_that_everybody_may_turn_elsewhere_is_refused() {
    // The plugin itself lies safely; the directory of the link to it does not.
    let (safe, shared) = (
        directory_with_plugin("libtestplugin_misbehaving.so"),
        tempfile::tempdir().unwrap(),
    );
    let link = shared.path().join("libqbench_link.so");
    std::os::unix::fs::symlink(safe.path().join("libqbench_fixture.so"), &link).unwrap();
    assert_eq!(list(shared.path(), "")["files"].as_array().unwrap().len(), 3);
    // With the sticky bit, too: whoever made the link may turn it.
    for mode in [0o777, 0o1777] {
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(mode)).unwrap();
        let reason = refusal(&shared, "");
        assert!(
            reason.contains(shared.path().to_str().unwrap())
                && reason.contains("may be written by everybody"),
            "{reason}"
        );
    }
}

/// `qbench plugin info` of a file, as JSON.
fn info(file: &Path, fault: &str) -> serde_json::Value {
    let mut command = qbench();
    command.args(["plugin", "info", "--json"]).arg(file);
    let output = command.env("QBENCH_TEST_FAULT", fault).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_manifest_beside_a_plugin_is_read_in_place_of_running_it() {
    let directory = directory_with_plugin("libtestplugin_misbehaving.so");
    let file = directory.path().join("libqbench_fixture.so");
    let sidecar = directory.path().join("libqbench_fixture.so.json");
    let asked = info(&file, "");
    assert_eq!(asked["file"]["from_sidecar"], false);
    assert_eq!(asked["file"]["abi"], "rust 1.0.0");
    assert!(!sidecar.exists());

    let output = qbench()
        .args(["plugin", "info", "--write"])
        .arg(&file)
        .output()
        .unwrap();
    let text = stdout(&output);
    for word in [
        "qbench-testplugin-misbehaving",
        "named on the command line",
        "sha256:",
        "rust 1.0.0",
        "written: ",
    ] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    // The plugin would end any process that opens it.
    let read = info(&file, "abort");
    assert_eq!(read["file"]["from_sidecar"], true);
    assert_eq!(read["file"]["schemes"], asked["file"]["schemes"]);
    assert_eq!(read["file"]["manifest"], asked["file"]["manifest"]);
    let listed = list(directory.path(), "abort");
    assert_eq!(listed["refused"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(listed["files"][0]["place"], "--plugin-dir", "{listed}");

    // A manifest of other bytes counts for nothing, nor does one that is broken or that others may write.
    let good = fs::read(&sidecar).unwrap();
    let problem = |expected: &str| {
        let asked = info(&file, "");
        assert_eq!(asked["file"]["from_sidecar"], false);
        let problem = asked["file"]["sidecar_problem"].as_str().unwrap().to_owned();
        assert!(problem.contains(expected), "{problem}");
    };
    let mut bytes = fs::read(&file).unwrap();
    bytes.push(0);
    fs::write(&file, &bytes).unwrap();
    problem("it describes another file, sha256:");
    bytes.pop();
    fs::write(&file, &bytes).unwrap();
    fs::write(&sidecar, b"{}").unwrap();
    problem("it is no manifest of a plugin");
    fs::write(&sidecar, vec![b' '; (1 << 20) + 1]).unwrap();
    problem("longer than 1048576 bytes");
    fs::write(&sidecar, good).unwrap();
    fs::set_permissions(&sidecar, fs::Permissions::from_mode(0o666)).unwrap();
    problem("may be written by everybody");
}

#[test]
fn info_finds_the_plugin_of_a_mode_or_backend() {
    for (name, file) in [("nf4_double", "libqbench_modes.so"), ("cpu", "libqbench_cpu.so")] {
        let output = qbench().args(["plugin", "info", name]).output().unwrap();
        assert!(stdout(&output).contains(file), "{output:?}");
    }
    fails(
        qbench().args(["plugin", "info", "gpu"]),
        2,
        &["unknown mode or backend `gpu`", "cpu", "nf4_double"],
    );
}

#[test]
fn only_pinned_files_are_loaded() {
    let directory = directory_with_plugin("libtestplugin_misbehaving.so");
    let hash = |index: usize| {
        let listed = list(directory.path(), "");
        format!("sha256:{}", listed["files"][index]["sha256"].as_str().unwrap())
    };
    let fixture = hash(0);
    let mut command = qbench();
    command.args([
        "plugin",
        "list",
        "--json",
        "--plugin-allow",
        &fixture,
        "--plugin-dir",
    ]);
    let output = command.arg(directory.path()).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["files"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(
        format!("sha256:{}", listed["files"][0]["sha256"].as_str().unwrap()),
        fixture
    );
    let refused = listed["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 2, "{listed}");
    assert!(
        refused[0]["reason"].as_str().unwrap().contains(&hash(1)),
        "{listed}"
    );

    // Nothing of another file runs: this one would end the process that opens it.
    let other = format!("sha256:{}", "0".repeat(64));
    let file = directory.path().join("libqbench_fixture.so");
    let outdir = directory.path().join("results");
    let mut command = qbench();
    command.env("QBENCH_TEST_FAULT", "abort");
    command
        .args(["--plugin-allow", &other, "--plugin"])
        .arg(&file)
        .arg("--outdir")
        .arg(&outdir);
    fails(
        &mut command,
        2,
        &[
            "libqbench_fixture.so",
            "not among the files that --plugin-allow names",
            "allow that too if you trust it",
            &fixture,
        ],
    );
    assert!(!outdir.exists());
    // Without the built-in plugins there is no mode to run, and it is said why.
    fails(
        qbench().args(["run", "--plugin-allow", &other]),
        2,
        &["2 files were refused"],
    );
}

#[test]
fn a_named_file_that_is_no_plugin_ends_the_run_before_it_starts() {
    let directory = directory_with("corrupt.so", b"\x7fELF and nothing more");
    let file = directory.path().join("corrupt.so");
    let outdir = directory.path().join("results");
    let message = fails(
        qbench().arg("--plugin").arg(&file).arg("--outdir").arg(&outdir),
        3,
        &["corrupt.so", "expected a shared library"],
    );
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!outdir.exists());
}

#[test]
fn a_named_plugin_of_another_abi_ends_the_run_before_it_starts() {
    let outdir = tempfile::tempdir().unwrap();
    let mut command = qbench();
    command.arg("--plugin").arg(plugin("libtestplugin_other_abi.so"));
    command.arg("--outdir").arg(outdir.path().join("results"));
    fails(
        &mut command,
        3,
        &[
            "libtestplugin_other_abi.so",
            "plugin ABI 2.0.0, this qbench loads 1.x",
        ],
    );
    assert!(!outdir.path().join("results").exists());
}

#[test]
fn two_files_with_one_mode_are_an_error_that_names_both() {
    let (first, second) = (
        directory_with_plugin("libtestplugin_misbehaving.so"),
        tempfile::tempdir().unwrap(),
    );
    // The same plugin with another hash: bytes after the end of an ELF file mean nothing.
    let mut bytes = fs::read(plugin("libtestplugin_misbehaving.so")).unwrap();
    bytes.push(0);
    fs::write(second.path().join("libqbench_other.so"), bytes).unwrap();
    let mut command = qbench();
    command.arg("--plugin").arg("misbehaving");
    for directory in [&first, &second] {
        command.arg("--plugin-dir").arg(directory.path());
    }
    fails(
        &mut command,
        2,
        &["misbehaving", "libqbench_fixture.so", "libqbench_other.so"],
    );
    // The same file twice counts once.
    fs::copy(
        first.path().join("libqbench_fixture.so"),
        second.path().join("libqbench_other.so"),
    )
    .unwrap();
    let listed = list(first.path(), "");
    assert_eq!(listed["files"].as_array().unwrap().len(), 3, "{listed}");
}

#[test]
fn a_file_of_the_same_name_in_an_earlier_place_comes_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(plugin("libqbench_cpu.so")).unwrap();
    bytes.push(0);
    let own = directory.path().join("libqbench_cpu.so");
    fs::write(&own, bytes).unwrap();
    let listed = list(directory.path(), "");
    assert_eq!(listed["files"][0]["path"], own.to_str().unwrap(), "{listed}");
    assert_eq!(listed["files"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["shadowed"][0]["by"], own.to_str().unwrap(), "{listed}");
}

#[test]
fn unknown_names_are_answered_with_what_there_is() {
    fails(qbench().args(["run", "--only", "nothing*"]), 2, &["nothing*"]);
    fails(
        qbench().args(["--plugin", "nf5"]),
        2,
        &["unknown mode `nf5`", "nf4_double", "4bit_nf4_double", "int8"],
    );
    fails(
        qbench().args(["run", "--modes", "8bits"]),
        2,
        &["unknown mode `8bits`", "8bit"],
    );
    fails(
        qbench().args(["run", "--backend", "gpu"]),
        2,
        &["unknown backend `gpu`", "cpu"],
    );
    fails(
        qbench().args(["run", "--device", "cuda:0"]),
        2,
        &["no device `cuda:0`", "cpu"],
    );
    fails(qbench().args(["--plugin", "nf4:blok=32"]), 2, &["blok", "block"]);
    fails(qbench().args(["--plugin", "nf4:block=63"]), 2, &["63"]);
    fails(qbench().args(["run", "--precison", "f32"]), 2, &["--precision"]);
    fails(
        qbench().args(["--plugin", "./no-such-file.so"]),
        2,
        &["no-such-file.so", "cannot be opened"],
    );
}
