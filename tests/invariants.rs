//! A backend that holds, computes or claims what it must not ends as an invalid row that says so.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;

use assert_cmd::Command;
use qbench_tests::{benchmark_table, plugin, rows, small_measurement, small_run, stderr, stdout};
use tempfile::TempDir;

/// `command` with `nf4` on the untruthful backend, with the directory that its plugin lies in.
fn with_fault(mut command: Command, fault: &str) -> (Command, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(
        plugin("libtestplugin_untruthful.so"),
        directory.path().join("libqbench_fixture.so"),
    )
    .unwrap();
    command.arg("--plugin-dir").arg(directory.path());
    command.args(["--modes", "nf4", "--backend"]);
    command.arg(format!("untruthful:fault={fault}"));
    (command, directory)
}

/// Names of the violations of the performance cell of `nf4`, and its reason.
fn violations(fault: &str) -> (Vec<String>, String) {
    let outdir = tempfile::tempdir().unwrap();
    let (mut command, _directory) = with_fault(small_measurement(outdir.path()), fault);
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cells failed or are invalid"), "{message}");

    let table = rows(&benchmark_table(outdir.path()));
    let row = table
        .iter()
        .find(|row| row["quantization"] == "4bit_nf4")
        .unwrap();
    assert_eq!(row["status"], "invalid");
    assert!(
        row["tokens_per_s"].parse::<f64>().unwrap() > 0.0,
        "its numbers are shown"
    );

    let journal = fs::read_to_string(outdir.path().join("cells.jsonl")).unwrap();
    let record = journal
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|record| record["cell"]["mode"] == "4bit_nf4")
        .unwrap();
    let names = record["violations"].as_array().unwrap().iter();
    let names = names.map(|violation| violation["invariant"].as_str().unwrap().to_owned());
    let report = outdir.path().join("analysis/performance_report.txt");
    if report.exists() {
        assert!(fs::read_to_string(report).unwrap().contains(&row["reason"]));
    }
    (names.collect(), row["reason"].clone())
}

#[test]
fn a_truthful_backend_is_believed() {
    let outdir = tempfile::tempdir().unwrap();
    let (mut command, _directory) = with_fault(small_run(outdir.path()), "");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stdout(&output).contains("invalid"), "{}", stdout(&output));
}

#[test]
fn outputs_that_are_no_numbers() {
    let (names, reason) = violations("nan");
    assert_eq!(names, ["non_finite_outputs"]);
    assert!(
        reason.contains("of the pooled embeddings are NaN or infinite"),
        "{reason}"
    );
}

#[test]
fn quality_of_outputs_that_are_no_numbers() {
    let outdir = tempfile::tempdir().unwrap();
    let (mut command, _directory) = with_fault(small_run(outdir.path()), "nan");
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    let journal = fs::read_to_string(outdir.path().join("cells.jsonl")).unwrap();
    let quality = journal
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["cell"]["kind"] == "quality");
    for record in quality {
        assert_ne!(record["status"], "ok", "{record}");
        assert!(
            record["reason"].as_str().unwrap().contains("non_finite_outputs"),
            "{record}"
        );
    }
}

#[test]
fn quality_of_weights_that_take_other_bits_than_declared() {
    let outdir = tempfile::tempdir().unwrap();
    let (mut command, _directory) = with_fault(small_run(outdir.path()), "bits");
    let output = command.arg("--skip-performance").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("weight_bits"), "{}", stderr(&output));
    let quality = rows(&outdir.path().join("analysis/quality_metrics.csv"));
    let row = quality
        .iter()
        .find(|row| row["quantization_mode"] == "4bit_nf4")
        .unwrap();
    assert_eq!(row["status"], "invalid");
}

#[test]
fn memory_that_each_pass_leaves_behind() {
    let (names, reason) = violations("leak");
    assert!(names.contains(&"memory_leak".to_owned()), "{reason}");
    assert!(
        reason.contains("left 4.000 MB behind each, as the backend's allocator counts"),
        "{reason}"
    );
    let (names, reason) = violations("quiet-leak");
    assert!(names.contains(&"memory_leak".to_owned()), "{reason}");
    assert!(reason.contains("as the system counts"), "{reason}");
}

#[test]
fn a_dense_copy_beside_the_quantised_weights() {
    let (names, reason) = violations("dense-copy");
    assert_eq!(names, ["held_bytes"], "{reason}");
    assert!(reason.contains("the layouts declare"), "{reason}");
}

#[test]
fn a_dense_copy_that_nobody_is_told_of() {
    let (names, reason) = violations("quiet-dense-copy");
    assert_eq!(names, ["memory_claim"], "{reason}");
    assert!(reason.contains("the process counts"), "{reason}");
}

#[test]
fn weights_that_are_said_to_take_nothing() {
    let (names, reason) = violations("no-bytes");
    assert!(names.contains(&"held_bytes".to_owned()), "{reason}");
    assert!(reason.contains("the weights alone need"), "{reason}");
}

#[test]
fn a_list_of_weights_that_is_not_true() {
    let (names, reason) = violations("bits");
    assert_eq!(names, ["weight_bits"], "{reason}");
    assert!(reason.contains("bits a weight, its layout"), "{reason}");
    let (names, reason) = violations("list");
    assert!(
        names.iter().all(|name| name == "weight_list") && !names.is_empty(),
        "{reason}"
    );
    assert!(reason.contains("which it never asked for"), "{reason}");
}

#[test]
fn a_device_that_is_not_done_and_a_clock_that_is_wrong() {
    let (names, reason) = violations("busy");
    assert_eq!(names, ["device_idle"], "{reason}");
    let (names, reason) = violations("clock");
    assert_eq!(names, ["device_seconds"], "{reason}");
}

#[test]
fn a_kernel_that_was_not_negotiated() {
    let (names, reason) = violations("kernel");
    assert_eq!(names, ["execution_claim"], "{reason}");
    assert!(reason.contains("asked before loading"), "{reason}");
}
