//! A plugin that fails in mid-run loses its own cells, kept as rows with status and reason; the rest goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use qbench_tests::{benchmark_table, fails, plugin, rows, small_run};

/// Runs `standard` and the misbehaving mode, and returns the latter's status and reason.
fn status_of(fault: &str) -> (String, String) {
    let outdir = tempfile::tempdir().unwrap();
    let mut command = small_run(outdir.path());
    let file = plugin("libtestplugin_misbehaving.so");
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(file, directory.path().join("libqbench_fixture.so")).unwrap();
    command.arg("--plugin-dir").arg(directory.path());
    command.arg("--plugin").arg(format!("misbehaving:fault={fault}"));
    fails(&mut command, 1, &["of 4 cells failed"]);

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
    let report = std::fs::read_to_string(outdir.path().join("analysis/performance_report.txt")).unwrap();
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
        reason.contains("panicked: the test asked for a panic"),
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
