//! `qbench compare`: what is printed where, and the exit code that a build server acts on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::Path};

use qbench_core::{
    results::{Cell, CellKind, Journal, Performance, RECORD_SCHEMA, Record, Status},
    workload::WorkloadKind,
};
use qbench_tests::{fails, qbench, stderr, stdout};
use serde_json::Value;

/// Level of each repeat and its noise: the runs drift together, since repeats are paired.
const DRIFT: [f64; 6] = [1.0, 1.04, 0.97, 1.02, 0.99, 1.06];
const NOISE: [f64; 6] = [1.001, 0.998, 1.0, 0.999, 1.002, 1.0];

fn record(mode: &str, repeat: usize, milliseconds: f64) -> Record {
    Record {
        schema: RECORD_SCHEMA.to_owned(),
        cell: Cell {
            kind: CellKind::Performance,
            model: "tiny".to_owned(),
            backend: "cpu".to_owned(),
            device: "cpu".to_owned(),
            precision: "float32".to_owned(),
            mode: mode.to_owned(),
            condition: "full".to_owned(),
            workload: WorkloadKind::Embed,
            batch_size: 4,
            repeat,
            part: String::new(),
        },
        status: Status::Ok,
        reason: String::new(),
        plugins: Vec::new(),
        execution: Vec::new(),
        warnings: Vec::new(),
        violations: Vec::new(),
        weights: Vec::new(),
        performance: Some(Performance {
            batch_seconds: vec![milliseconds / 1e3; 3],
            sequences: 12,
            tokens: 600,
            bases: Some(3000),
            static_bytes: Some(1_000_000),
            peak_bytes: Some(2_000_000),
            ..Performance::default()
        }),
        quality: None,
        evaluation: None,
    }
}

fn crashed(mode: &str) -> Record {
    Record {
        status: Status::Crashed,
        reason: "SIGSEGV".to_owned(),
        performance: None,
        ..record(mode, 0, 1.0)
    }
}

/// Six repeats of a mode, slower than 20 ms a batch by `factor`.
fn repeats(mode: &str, factor: f64) -> Vec<Record> {
    (0..6)
        .map(|repeat| {
            let noise = if factor == 1.0 { 1.0 } else { NOISE[repeat] };
            record(mode, repeat, 20.0 * DRIFT[repeat] * factor * noise)
        })
        .collect()
}

fn results(directory: &Path, name: &str, records: &[Record]) {
    let directory = directory.join(name);
    fs::create_dir(&directory).unwrap();
    let mut journal = Journal::open(&directory).unwrap();
    for record in records {
        journal.append(record).unwrap();
    }
}

/// Results `old`; the same as `same`, 8 % slower in one mode as `slow`, two repeats as `short`, crashed as `crashed`.
fn fixture() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let old = [repeats("standard", 1.0), repeats("8bit", 1.0)].concat();
    let same = [repeats("standard", 1.001), repeats("8bit", 0.999)].concat();
    let slow = [repeats("standard", 1.001), repeats("8bit", 1.08)].concat();
    results(directory.path(), "old", &old);
    results(directory.path(), "same", &same);
    results(directory.path(), "slow", &slow);
    results(directory.path(), "short", &[&old[..2], &old[6..8]].concat());
    results(
        directory.path(),
        "crashed",
        &[repeats("standard", 1.0), vec![crashed("8bit")]].concat(),
    );
    directory
}

fn compare(directory: &Path, b: &str, arguments: &[&str]) -> (i32, String) {
    let output = qbench()
        .current_dir(directory)
        .args(["compare", "old", b])
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(stderr(&output), "", "no doubts here");
    (output.status.code().unwrap(), stdout(&output))
}

#[test]
fn equals_pass_and_a_slowdown_does_not() {
    let directory = fixture();
    let (code, text) = compare(directory.path(), "same", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with("2 SAME\n"), "{text}");
    let (code, text) = compare(directory.path(), "slow", &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.ends_with("1 SLOWER, 1 SAME\n"), "{text}");
    let (code, text) = compare(directory.path(), "slow", &["--margin", "14%"]);
    assert_eq!(code, 0, "8 % is within 14 %: {text}");
    assert!(
        text.contains("margin 14 %") && text.ends_with("2 SAME\n"),
        "{text}"
    );
}

#[test]
fn the_policy_decides_the_exit_code() {
    let directory = fixture();
    let code = |b, policy| compare(directory.path(), b, &["--fail-on", policy]).0;
    assert_eq!(
        (
            code("slow", "slower"),
            code("slow", "slower-or-ambiguous"),
            code("slow", "never")
        ),
        (1, 1, 0)
    );
    assert_eq!(
        (code("short", "slower"), code("short", "slower-or-ambiguous")),
        (0, 1)
    );
    assert_eq!((code("crashed", "slower"), code("crashed", "never")), (1, 0));
    let (_, text) = compare(directory.path(), "crashed", &[]);
    assert!(
        text.contains("8bit: failed in the other: crashed: SIGSEGV"),
        "{text}"
    );
    let (_, text) = compare(directory.path(), "short", &[]);
    assert!(
        text.contains("8bit: 2 paired blocks, at least 3 are needed"),
        "{text}"
    );
}

#[test]
fn json_and_markdown_say_the_same() {
    let directory = fixture();
    let (code, json) = compare(directory.path(), "slow", &["--format", "json"]);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, value["schema"].as_str().unwrap()), (1, "qbench.compare/1"));
    assert_eq!(value["cells"][1]["cell"]["mode"], "8bit");
    assert_eq!(value["cells"][1]["verdict"], "SLOWER");
    let ratio = value["cells"][1]["time"]["ratio"].as_f64().unwrap();
    // The geometric mean of the noise is 1 to five digits.
    assert!((ratio - 1.08).abs() < 1e-5, "{ratio}");
    assert_eq!(compare(directory.path(), "slow", &["--json"]).1, json);

    let (_, markdown) = compare(directory.path(), "slow", &["--format", "markdown"]);
    assert!(markdown.starts_with("**1 SLOWER, 1 SAME**\n"), "{markdown}");
    assert!(markdown.contains("| 8bit | SLOWER | 1.080 |"), "{markdown}");
}

#[test]
fn a_copied_journal_is_a_baseline() {
    let directory = fixture();
    fs::copy(
        directory.path().join("same/cells.jsonl"),
        directory.path().join("saved.jsonl"),
    )
    .unwrap();
    let (code, text) = compare(directory.path(), "saved.jsonl", &[]);
    assert_eq!(code, 0);
    assert!(text.ends_with("2 SAME\n"), "{text}");
}

#[test]
fn what_cannot_be_compared_is_an_error_of_usage() {
    let directory = fixture();
    results(directory.path(), "other", &repeats("zeta", 1.0));
    results(directory.path(), "empty", &[]);
    let compare = |arguments: &[&str], words: &[&str]| {
        fails(
            qbench()
                .current_dir(directory.path())
                .arg("compare")
                .args(arguments),
            2,
            words,
        );
    };
    compare(
        &["old", "none"],
        &["none is not there", "expected a results directory"],
    );
    compare(&["old", "empty"], &["no measured cell in empty"]);
    compare(&["old", "other"], &["no cell in common", "mode zeta"]);
    compare(
        &["old", "same", "--margin", "0"],
        &["--margin", "expected more than 0"],
    );
    compare(&["old", "same", "--alpha", "2"], &["--alpha", "less than 0.5"]);
    compare(&["old", "same", "--fail-on", "faster"], &["slower-or-ambiguous"]);
    compare(&["old"], &["<B>"]);
}

#[test]
fn backends_are_compared_across_that_column() {
    let directory = fixture();
    let on = |backend: &str, records: Vec<Record>| -> Vec<Record> {
        let with = |mut record: Record| {
            record.cell.backend = backend.to_owned();
            record
        };
        records.into_iter().map(with).collect()
    };
    let other = on(
        "other",
        [repeats("standard", 1.001), repeats("8bit", 1.08)].concat(),
    );
    results(directory.path(), "other", &other);
    results(directory.path(), "both", &[other, repeats("8bit", 1.0)].concat());
    let compare_with = |b: &str, arguments: &[&str]| {
        let mut command = qbench();
        command
            .current_dir(directory.path())
            .args(["compare", "old", b])
            .args(arguments);
        command
    };
    fails(
        &mut compare_with("other", &[]),
        2,
        &["no cell in common", "--across backend"],
    );
    let (code, text) = compare(directory.path(), "other", &["--across", "backend"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.ends_with("1 SLOWER, 1 SAME\n"), "{text}");
    fails(
        &mut compare_with("both", &["--across", "backend"]),
        2,
        &["both", "differ in their backend alone"],
    );
    fails(
        &mut compare_with("other", &["--across", "colour"]),
        2,
        &["colour", "backend, device"],
    );
}
