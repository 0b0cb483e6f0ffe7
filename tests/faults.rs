//! A plugin that fails in mid-run loses its own cells, kept as rows with status and reason; the rest goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    process::{Child, Command as Process, Stdio},
    thread,
    time::{Duration, Instant},
};

use assert_cmd::Command;
use qbench_tests::{benchmark_table, built, fails, plugin, rows, small_measurement, small_run, stderr};
use tempfile::TempDir;

/// `command` with the misbehaving mode, and the directory that its plugin lies in.
fn with_fault(mut command: Command, fault: &str) -> (Command, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = plugin("libtestplugin_misbehaving.so");
    fs::copy(file, directory.path().join("libqbench_fixture.so")).unwrap();
    command.arg("--plugin-dir").arg(directory.path());
    command.arg("--plugin").arg(format!("misbehaving:fault={fault}"));
    (command, directory)
}

/// Runs `standard` and the misbehaving mode, and returns the latter's status and reason.
fn status_of(fault: &str) -> (String, String) {
    let outdir = tempfile::tempdir().unwrap();
    let (mut command, _directory) = with_fault(small_run(outdir.path()), fault);
    // Far above what a good cell takes here, far below what the faults ask for.
    command.args(["--cell-timeout", "20", "--memory-limit", "1.5"]);
    fails(&mut command, 1, &["of 6 cells failed or are invalid"]);

    let rows = rows(&benchmark_table(outdir.path()));
    assert_eq!(rows.len(), 2, "{rows:?}");
    let of = |mode: &str| {
        rows.iter()
            .find(|row| row["quantization"].starts_with(mode))
            .unwrap()
    };
    let (good, bad) = (of("standard"), of("misbehaving"));
    assert_eq!(good["status"], "ok");
    assert!(good["tokens_per_s"].parse::<f64>().unwrap() > 0.0);
    assert_eq!(bad["tokens_per_s"], "", "a cell that failed has no numbers");
    assert!(outdir.path().join("analysis/quant_summary.csv").exists());
    let report = fs::read_to_string(outdir.path().join("analysis/performance_report.txt")).unwrap();
    assert!(report.contains(&bad["reason"][..20]), "{report}");
    (bad["status"].clone(), bad["reason"].clone())
}

#[test]
fn an_error_and_a_panic_become_rows() {
    let (status, reason) = status_of("error");
    assert_eq!(status, "error");
    assert!(reason.contains("the test asked for an error"), "{reason}");
    let (status, reason) = status_of("panic");
    assert_eq!(status, "error");
    assert!(
        reason.contains("panicked: ") && reason.contains("the test asked for a panic"),
        "{reason}"
    );
}

#[test]
fn a_plugin_without_memory_is_told_apart() {
    let (status, reason) = status_of("memory");
    assert_eq!(status, "out_of_memory");
    assert!(reason.contains("1 EB"), "{reason}");
}

#[test]
fn a_crash_becomes_a_row() {
    let (status, reason) = status_of("segv");
    assert_eq!(status, "crashed");
    assert!(reason.contains("SIGSEGV"), "{reason}");
    let (status, reason) = status_of("abort");
    assert_eq!(status, "crashed");
    assert!(reason.contains("SIGABRT"), "{reason}");
}

#[test]
fn an_exit_with_code_0_is_no_success() {
    let (status, reason) = status_of("exit");
    assert_eq!(status, "no_result");
    assert!(reason.contains("exit code 0"), "{reason}");
}

#[test]
fn a_cell_that_hangs_is_stopped() {
    let (status, reason) = status_of("hang");
    assert_eq!(status, "timed_out");
    assert!(
        reason.contains("longer than 20 s") && reason.contains("--cell-timeout"),
        "{reason}"
    );
}

#[test]
fn a_cell_that_takes_too_much_memory_is_stopped() {
    let (status, reason) = status_of("allocate");
    assert_eq!(status, "out_of_memory");
    assert!(reason.contains("the limit of 1.5 GB"), "{reason}");
}

#[test]
fn a_warning_of_a_plugin_is_shown_unless_quiet_is_asked_for() {
    let outdir = tempfile::tempdir().unwrap();
    let (mut command, _directory) = with_fault(small_measurement(outdir.path()), "warning");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the test asked for a warning"),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains('\u{1b}'), "no terminal codes in a pipe");
    let output = command.arg("--quiet").output().unwrap();
    assert_eq!(stderr(&output), "");
}

/// The processes that `parent` started.
fn children(parent: &Child) -> Vec<String> {
    let id = parent.id();
    let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Whether a process runs; one that only waits to be reaped does not.
fn runs(id: &str) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "waited in vain until {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_that_is_killed_leaves_no_worker_and_a_directory_that_can_be_used() {
    let outdir = tempfile::tempdir().unwrap();
    let mut host = Process::new(built().join("qbench"))
        .args([
            "run",
            "--truncate-tokens",
            "512",
            "--num-repeats",
            "1",
            "--warmup",
            "0",
            "--max-batches",
            "1",
        ])
        .args(["--modes", "nf4", "--outdir"])
        .arg(outdir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reference = outdir.path().join("reference");
    wait_until("the reference is being written", || {
        reference.exists() && !children(&host).is_empty()
    });
    let workers = children(&host);
    host.kill().unwrap();
    host.wait().unwrap();
    wait_until("the workers have ended", || !workers.iter().any(|id| runs(id)));
    assert!(reference.exists(), "killed too late to test anything");

    // Another configuration: what is finished is moved away, the reference's outputs are not worth keeping.
    let output = small_run(outdir.path())
        .args(["--modes", "nf4"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let previous: Vec<_> = fs::read_dir(outdir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("previous-")
        })
        .collect();
    assert_eq!(previous.len(), 1);
    assert!(previous[0].join("cells.jsonl").exists());
    assert!(!previous[0].join("reference").exists() && !reference.exists());
}
