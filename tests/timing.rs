//! What the harness measures against a backend that keeps its own time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::Path};

use qbench_core::results::{Performance, read_journal};
use qbench_core::statistics::median;
use qbench_tests::{measurement_for, plugin, stderr};

/// Runs the sleeping backend with batches of so many microseconds and returns the cells' numbers.
fn timed(microseconds: u64, time_budget: &str, outdir: &Path) -> Vec<Performance> {
    let directory = tempfile::tempdir().unwrap();
    let file = plugin("libtestplugin_sleeping.so");
    fs::copy(file, directory.path().join("libqbench_sleeping.so")).unwrap();
    let mut command = measurement_for(time_budget, outdir);
    command
        .args(["--backend", "sleeping", "--modes", "standard", "--plugin-dir"])
        .arg(directory.path())
        .args(["--target-ci", "0.01%"])
        .env("QBENCH_TEST_SLEEP_US", microseconds.to_string());
    let output = command.output().unwrap();
    assert!(
        output.status.code().is_some_and(|code| code < 2),
        "{}",
        stderr(&output)
    );
    let records = read_journal(outdir).unwrap().records;
    records
        .into_iter()
        .filter_map(|record| record.performance)
        .collect()
}

#[test]
fn the_host_measures_at_least_what_the_backend_does() {
    let outdir = tempfile::tempdir().unwrap();
    let cells = timed(500, "0", outdir.path());
    let [cell] = cells.as_slice() else {
        panic!("{cells:?}")
    };
    assert_eq!((cell.batch_seconds.len(), cell.device_seconds.len()), (2, 2));
    for (host, own) in cell.batch_seconds.iter().zip(&cell.device_seconds) {
        // The host starts its clock before the backend does and reads it after; a sleep is never too short.
        assert!(host >= own && *own >= 500e-6, "{host} {own}");
    }
}

/// The figure of `docs/measurement.md`, printed; nothing is asserted of a machine that others use too.
#[test]
#[ignore = "a benchmark: cargo test -p qbench-tests --test timing -- --ignored --nocapture"]
#[expect(clippy::print_stdout, reason = "the figure is the product")]
fn difference_from_a_backend_that_keeps_its_own_time() {
    println!(
        "{:>12} {:>8} {:>14} {:>14} {:>16} {:>10}",
        "sleep", "batches", "host median", "own median", "difference", "allowed"
    );
    for microseconds in [100, 1_000, 10_000, 100_000] {
        let outdir = tempfile::tempdir().unwrap();
        for cell in timed(microseconds, "3", outdir.path()) {
            let [host, own] =
                [&cell.batch_seconds, &cell.device_seconds].map(|seconds| median(seconds).unwrap() * 1e6);
            println!(
                "{microseconds:>9} µs {:>8} {host:>11.1} µs {own:>11.1} µs {:>8.2} µs {:>3.2} % {:>7.0} µs",
                cell.batch_seconds.len(),
                host - own,
                (host / own - 1.0) * 100.0,
                (own * 0.01).max(50.0)
            );
        }
    }
}
