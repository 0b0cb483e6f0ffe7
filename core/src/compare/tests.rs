use std::path::Path;

use super::*;
use crate::results::test_records::performance_record;
use crate::results::{Journal, Record, Status, write_benchmark};
use crate::statistics::{Effect, Question};

const QUESTION: Question = Question {
    margin: 0.03,
    alpha: 0.05,
};

/// A repeat whose batches take `seconds`, 2 s and 50 s: the median is `seconds` as long as it lies between these.
fn record(mode: &str, repeat: usize, seconds: f64) -> Record {
    let mut record = performance_record(mode, repeat);
    if let Some(performance) = &mut record.performance {
        performance.batches.truncate(1);
        performance.batch_seconds = vec![2.0, seconds, 50.0];
    }
    record
}

fn failed(mode: &str, repeat: usize) -> Record {
    Record {
        status: Status::Crashed,
        reason: "SIGSEGV".to_owned(),
        performance: None,
        ..performance_record(mode, repeat)
    }
}

/// Repeats that take 10 s, a little more or less.
fn repeats(mode: &str, factor: f64) -> Vec<Record> {
    let times = [10.0, 10.05, 9.95, 10.02, 9.98];
    let noise = [1.001, 0.999, 1.0, 1.002, 0.998];
    (0..5)
        .map(|repeat| {
            let noise = if factor == 1.0 { 1.0 } else { noise[repeat] };
            record(mode, repeat, times[repeat] * factor * noise)
        })
        .collect()
}

fn journal(directory: &Path, records: &[Record]) -> Measured {
    let mut journal = Journal::open(directory).unwrap();
    for record in records {
        journal.append(record).unwrap();
    }
    Measured::read(directory).unwrap()
}

fn compare(a: &[Record], b: &[Record]) -> Result<Comparison, CompareError> {
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    Comparison::of(
        journal(directories[0].path(), a),
        journal(directories[1].path(), b),
        QUESTION,
        QualityMargins::default(),
    )
}

#[test]
fn each_cell_gets_its_verdict() {
    let a = [repeats("same", 1.0), repeats("slow", 1.0), repeats("fast", 1.0)].concat();
    let b = [repeats("same", 1.005), repeats("slow", 1.1), repeats("fast", 0.8)].concat();
    let comparison = compare(&a, &b).unwrap();
    let verdicts: Vec<Effect> = comparison.cells.iter().map(|cell| cell.verdict).collect();
    assert_eq!(verdicts, [Effect::Same, Effect::Slower, Effect::Faster]);
    let slow = &comparison.cells[1];
    let time = slow.time.unwrap();
    // The geometric mean of five noises is 1 to five digits, and 1.1 lies well inside its interval.
    assert!((time.ratio - 1.1).abs() < 1e-5 && time.interval.contains(1.1));
    assert_eq!((slow.blocks, slow.statistic), (5, Statistic::Median));
    assert_eq!(slow.a.batch_ms, Some(10_000.0));
    // 1000 tokens and 5000 bases in 62 s.
    assert_eq!(slow.a.tokens_per_s, Some(1000.0 / 62.0));
    assert_eq!(slow.a.bases_per_s, Some(5000.0 / 62.0));
    assert_eq!(slow.memory.static_ratio, Some(1.0));
}

#[test]
fn p_values_are_corrected_over_the_table() {
    // p of the one cell alone is between α / 4 and α: slower alone, ambiguous among four.
    let noisy = |mode: &str| -> Vec<Record> {
        let factors = [1.03, 1.08, 1.02, 1.09, 1.04];
        (0..5)
            .map(|repeat| record(mode, repeat, 10.0 * factors[repeat]))
            .collect()
    };
    let flat = |mode: &str| -> Vec<Record> { (0..5).map(|repeat| record(mode, repeat, 10.0)).collect() };
    let alone = compare(&flat("one"), &noisy("one")).unwrap();
    assert_eq!(alone.cells[0].verdict, Effect::Slower);
    let modes = ["one", "two", "three", "four"];
    let together = compare(&modes.map(flat).concat(), &modes.map(noisy).concat()).unwrap();
    assert_eq!((together.tested, together.count(Effect::Ambiguous)), (4, 4));
    let p_value = |comparison: &Comparison| comparison.cells[0].time.unwrap().p_difference;
    assert!((p_value(&together) / p_value(&alone) - 4.0).abs() < 1e-12);
}

#[test]
fn too_few_blocks_and_other_work_are_ambiguous() {
    let comparison = compare(&repeats("m", 1.0)[..2], &repeats("m", 2.0)).unwrap();
    let cell = &comparison.cells[0];
    assert_eq!(
        (cell.verdict, cell.blocks, cell.unpaired_b),
        (Effect::Ambiguous, 2, 3)
    );
    assert!(
        cell.reason
            .as_ref()
            .unwrap()
            .starts_with("2 paired blocks, at least 3")
    );

    let mut b = repeats("m", 2.0);
    for record in &mut b {
        record.performance.as_mut().unwrap().tokens = 1100;
    }
    let comparison = compare(&repeats("m", 1.0), &b).unwrap();
    let cell = &comparison.cells[0];
    assert_eq!((cell.verdict, comparison.tested), (Effect::Ambiguous, 0));
    let reason = cell.reason.as_ref().unwrap();
    assert!(
        reason.contains("333.3 tokens a batch in A, 366.7 in B"),
        "{reason}"
    );
}

#[test]
fn cells_without_a_partner_are_listed() {
    let a = [repeats("both", 1.0), repeats("gone", 1.0), repeats("broken", 1.0)].concat();
    let b = [
        repeats("both", 1.0),
        repeats("new", 1.0),
        vec![failed("broken", 0)],
    ]
    .concat();
    let comparison = compare(&a, &b).unwrap();
    let missing = |missing: &[Missing]| -> Vec<(String, Option<String>)> {
        missing
            .iter()
            .map(|missing| (missing.cell.mode.clone(), missing.failure.clone()))
            .collect()
    };
    let failure = Some("crashed: SIGSEGV".to_owned());
    assert_eq!(
        missing(&comparison.only_in_a),
        [("gone".to_owned(), None), ("broken".to_owned(), failure)]
    );
    assert_eq!(missing(&comparison.only_in_b), [("new".to_owned(), None)]);
    assert_eq!(comparison.failed_in_b(), 1);

    let error = compare(&repeats("one", 1.0), &repeats("other", 1.0)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("no cell in common"), "{message}");
    assert!(
        message.contains("mode one, model tiny") && message.contains("mode other"),
        "{message}"
    );
}

#[test]
fn a_failed_block_leaves_the_others_paired_with_their_own() {
    let mut b = repeats("m", 1.1);
    b[1] = failed("m", 1);
    let comparison = compare(&repeats("m", 1.0), &b).unwrap();
    let cell = &comparison.cells[0];
    assert_eq!(
        (cell.blocks, cell.unpaired_a, cell.verdict),
        (4, 1, Effect::Slower)
    );
}

/// The original's columns, without backend, device, repeat and status; repeats are rows in order.
#[test]
fn the_originals_tables_are_compared_with_a_journal() {
    let directory = tempfile::tempdir().unwrap();
    let header = "model,precision,quantization,condition,batch_size,mean_tokens,runs,E2EL_ms,tokens_per_s";
    let rows = [31_000, 31_010, 30_990, 31_005, 30_995]
        .map(|ms| format!("tiny,float32,m,full,4,125.0,2,{ms},16.1"))
        .join("\n");
    std::fs::write(
        directory.path().join("benchmark_1.csv"),
        format!("{header}\n{rows}\n"),
    )
    .unwrap();
    let original = Measured::read(directory.path()).unwrap();
    assert_eq!(original.cells[0].blocks.len(), 5);

    let ours = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..5)
        .map(|repeat| {
            let mut record = performance_record("m", repeat);
            record.performance.as_mut().unwrap().batch_seconds = vec![30.0, 32.0];
            record
        })
        .collect();
    let comparison = Comparison::of(
        original,
        journal(ours.path(), &records),
        QUESTION,
        QualityMargins::default(),
    )
    .unwrap();
    assert_eq!(comparison.cells[0].verdict, Effect::Same);
    assert_eq!(comparison.cells[0].statistic, Statistic::Mean);
    assert_eq!(
        comparison.warnings,
        ["backend", "device"]
            .map(|column| format!("one side does not say its {column}: cells are matched without it"))
    );
}

#[test]
fn a_journal_its_copy_and_its_table_hold_the_same_cells() {
    let directory = tempfile::tempdir().unwrap();
    let records = repeats("m", 1.0);
    let from_directory = journal(directory.path(), &records);
    let copy = directory.path().join("baseline.json");
    std::fs::copy(directory.path().join("cells.jsonl"), &copy).unwrap();
    assert_eq!(Measured::read(&copy).unwrap().cells, from_directory.cells);

    let table = write_benchmark(directory.path(), "1", &records, &serde_json::json!({})).unwrap();
    let from_table = Measured::read(&table).unwrap();
    assert_eq!(from_table.cells, from_directory.cells);
}

#[test]
fn what_cannot_be_read_says_what_was_expected() {
    let directory = tempfile::tempdir().unwrap();
    let message = |path: &Path| Measured::read(path).unwrap_err().to_string();
    assert!(message(&directory.path().join("none")).contains("is not there; expected a results directory"));
    assert!(message(directory.path()).contains("no measured cell in"));
    let file = directory.path().join("notes.txt");
    std::fs::write(&file, "hello\n").unwrap();
    assert!(message(&file).contains("line 1: no record of a cell"));
}

#[test]
fn text_and_markdown() {
    let a = [repeats("same", 1.0), repeats("slow", 1.0), repeats("gone", 1.0)].concat();
    let b = [repeats("same", 1.005), repeats("slow", 1.1)].concat();
    let mut comparison = compare(&a, &b).unwrap();
    comparison.a = "old".into();
    comparison.b = "new".into();
    assert_eq!(text(&comparison), include_str!("tests/comparison.txt"));
    assert_eq!(markdown(&comparison), include_str!("tests/comparison.md"));
}
