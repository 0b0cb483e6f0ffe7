//! Finished cells survive whatever ends a run, and the next run goes on from them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command as Process, Output, Stdio},
    thread,
    time::Duration,
};

use qbench_tests::{benchmark_table, built, rows, small_run, stderr};

/// Performance and quality cells of a small run of all five modes, and two cells of the noise floor.
const CELLS: usize = 12;

fn started(outdir: &Path) -> Child {
    let mut command = Process::new(built().join("qbench"));
    command
        .args(small_run(outdir).get_args())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn journal_lines(outdir: &Path) -> usize {
    fs::read_to_string(outdir.join("cells.jsonl")).map_or(0, |text| text.lines().count())
}

/// Finishes the run and checks that every cell is there once.
fn finish(outdir: &Path) -> Output {
    let output = small_run(outdir).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let table = rows(&benchmark_table(outdir));
    let modes: BTreeSet<&str> = table.iter().map(|row| row["quantization"].as_str()).collect();
    assert_eq!((table.len(), modes.len()), (5, 5), "{table:?}");
    assert!(table.iter().all(|row| row["status"] == "ok"), "{table:?}");
    assert_eq!(rows(&outdir.join("analysis/quality_metrics.csv")).len(), 21);
    assert!(!outdir.join("reference").exists());
    output
}

#[test]
fn a_finished_run_is_not_run_again_unless_it_is_forced() {
    let outdir = tempfile::tempdir().unwrap();
    finish(outdir.path());
    assert_eq!(journal_lines(outdir.path()), CELLS);
    let again = finish(outdir.path());
    assert_eq!(stderr(&again).matches("kept from an earlier run").count(), CELLS);
    assert_eq!(journal_lines(outdir.path()), CELLS);
    let forced = small_run(outdir.path())
        .args(["--force", "--modes", "standard"])
        .output()
        .unwrap();
    assert!(forced.status.success(), "{}", stderr(&forced));
    assert_eq!(journal_lines(outdir.path()), CELLS + 4);
    assert_eq!(
        rows(&benchmark_table(outdir.path())).len(),
        5,
        "the latest record of a cell counts"
    );
}

#[test]
fn a_reference_that_fails_takes_no_finished_cell_away() {
    let outdir = tempfile::tempdir().unwrap();
    let first = small_run(outdir.path())
        .args(["--modes", "standard", "nf4"])
        .output()
        .unwrap();
    assert!(first.status.success(), "{}", stderr(&first));
    // Another mode needs the reference again, which cannot be made in this time; nothing else has to run again.
    let second = small_run(outdir.path())
        .args(["--modes", "standard", "nf4", "fp4", "--cell-timeout", "0.001"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", stderr(&second));
    let quality = rows(&outdir.path().join("analysis/quality_metrics.csv"));
    let status = |mode: &str| {
        let row = quality
            .iter()
            .find(|row| row["quantization_mode"] == mode && row["layer"] == "logits");
        row.unwrap()["status"].clone()
    };
    assert_eq!(
        [status("standard"), status("4bit_nf4"), status("4bit_fp4")],
        ["ok", "ok", "timed_out"]
    );
}

#[test]
fn a_killed_host_loses_no_finished_cell() {
    let outdir = tempfile::tempdir().unwrap();
    // The same directory again and again, killed a little later each time, then finished.
    for trial in 0..6 {
        let mut run = started(outdir.path());
        thread::sleep(Duration::from_millis(150 + 170 * trial));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    let kept = journal_lines(outdir.path());
    let output = finish(outdir.path());
    assert_eq!(stderr(&output).matches("kept from an earlier run").count(), kept);
    assert_eq!(journal_lines(outdir.path()), CELLS, "no cell twice");
}

#[test]
fn an_interrupted_run_says_what_is_kept() {
    let outdir = tempfile::tempdir().unwrap();
    let run = started(outdir.path());
    while journal_lines(outdir.path()) < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(
        Process::new("kill")
            .args(["-INT", &run.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the same command goes on from there"),
        "{}",
        stderr(&output)
    );
    let kept = journal_lines(outdir.path());
    assert!((2..CELLS).contains(&kept), "{kept}");
    let output = finish(outdir.path());
    assert_eq!(stderr(&output).matches("kept from an earlier run").count(), kept);
}
