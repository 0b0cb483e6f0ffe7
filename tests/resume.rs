//! Finished cells survive whatever ends a run, and the next run goes on from them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
    process::{Child, Command as Process, Output, Stdio},
    thread,
    time::Duration,
};

use qbench_core::results::{Cell, Record, Status, read_journal};
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
    // What a kill left of a line has no end.
    fs::read_to_string(outdir.join("cells.jsonl")).map_or(0, |text| text.matches('\n').count())
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
fn an_interrupted_run_says_what_is_kept() {
    // Exit codes as shells give them: 128 and the number of the signal.
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let outdir = tempfile::tempdir().unwrap();
        let run = started(outdir.path());
        while journal_lines(outdir.path()) < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(
            Process::new("kill")
                .args([signal, &run.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
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
}

/// A model so small that a cell takes little more than its process.
fn tiny_model(directory: &Path) -> String {
    let config = directory.join("tiny.json");
    fs::write(
        &config,
        r#"{"model_type":"mistral","hidden_size":32,"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":64,
        "num_key_value_heads":1,"vocab_size":64,"max_position_embeddings":64,"rms_norm_eps":1e-5,"torch_dtype":"float32"}"#,
    )
    .unwrap();
    format!("synthetic:{}", config.display())
}

/// A run of the five modes on it, four times each.
fn tiny_run(model: &str, outdir: &Path) -> Process {
    let mut command = Process::new(built().join("qbench"));
    command
        .args(["run", "--skip-quality", "--truncate-tokens", "48"])
        .args(["--samples-per-cond", "4", "--warmup", "1", "--num-repeats", "4"])
        .args([
            "--time-budget",
            "0",
            "--threads",
            "2",
            "--model",
            model,
            "--outdir",
        ])
        .arg(outdir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Cells of a tiny run.
const TINY_CELLS: usize = 20;

/// What the journal holds; it must be readable at any moment.
fn records(outdir: &Path) -> Vec<Record> {
    if outdir.exists() {
        read_journal(outdir).unwrap().records
    } else {
        Vec::new()
    }
}

/// The cells of these records, each with its latest status.
fn cells(records: Vec<Record>) -> HashMap<Cell, Status> {
    records
        .into_iter()
        .map(|record| (record.cell, record.status))
        .collect()
}

fn finished(outdir: &Path) -> HashSet<Cell> {
    let ok = cells(records(outdir))
        .into_iter()
        .filter(|(_, status)| *status == Status::Ok);
    ok.map(|(cell, _)| cell).collect()
}

/// Whatever a kill left besides the journal parses: files appear whole or not at all.
fn assert_tables_are_whole(outdir: &Path) {
    for entry in fs::read_dir(outdir).into_iter().flatten() {
        let path = entry.unwrap().path();
        // Files that were being written have names of their own, without these endings.
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => assert!(!rows(&path).is_empty(), "{}", path.display()),
            Some("json") => {
                let _: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            }
            _ => {}
        }
    }
}

/// A pause below `most` milliseconds, at random, but the same in every run of the test.
fn pause(trial: u64, most: u64) -> Duration {
    // Knuth's multiplicative hash.
    Duration::from_millis((((trial + 1) * 2_654_435_761 % (1 << 32)) * most) >> 32)
}

/// Runs the same command until it has nothing more to do, and checks that every cell is there once.
fn finish_tiny(model: &str, outdir: &Path) {
    let before = finished(outdir);
    let lines = journal_lines(outdir);
    assert!(tiny_run(model, outdir).status().unwrap().success());
    let after = finished(outdir);
    assert_eq!(after.len(), TINY_CELLS);
    assert!(before.is_subset(&after));
    assert_eq!(
        journal_lines(outdir),
        lines + TINY_CELLS - before.len(),
        "a cell ran twice"
    );
    let table = rows(&benchmark_table(outdir));
    assert_eq!(table.len(), TINY_CELLS);
    assert!(table.iter().all(|row| row["status"] == "ok"), "{table:?}");
}

#[test]
fn a_host_killed_at_any_moment_loses_no_finished_cell() {
    const KILLS: u64 = 24;
    let directory = tempfile::tempdir().unwrap();
    let model = tiny_model(directory.path());
    let mut killed = 0;
    for round in 0.. {
        let outdir = directory.path().join(format!("results-{round}"));
        while killed < KILLS {
            let mut run = tiny_run(&model, &outdir).spawn().unwrap();
            thread::sleep(pause(killed, 700));
            let kept = finished(&outdir);
            run.kill().unwrap();
            let ended = run.wait().unwrap();
            assert!(kept.is_subset(&finished(&outdir)));
            assert_tables_are_whole(&outdir);
            if ended.success() {
                break;
            }
            killed += 1;
        }
        finish_tiny(&model, &outdir);
        if killed >= KILLS {
            break;
        }
    }
}

#[test]
fn killed_workers_lose_their_own_cells_until_the_next_run() {
    const KILLS: u64 = 20;
    let directory = tempfile::tempdir().unwrap();
    let model = tiny_model(directory.path());
    let mut killed = 0;
    for round in 0.. {
        let outdir = directory.path().join(format!("results-{round}"));
        let mut run = tiny_run(&model, &outdir).spawn().unwrap();
        // Workers have a group of their own, and their parent is the host.
        let children = format!("/proc/{0}/task/{0}/children", run.id());
        let ended = loop {
            if let Some(ended) = run.try_wait().unwrap() {
                break ended;
            }
            thread::sleep(pause(killed, 60));
            // The first children scan plugins, before the plan is written: a run that cannot is none.
            if !outdir.join("manifest.json").exists() {
                continue;
            }
            let workers = fs::read_to_string(&children).unwrap_or_default();
            for worker in workers.split_whitespace() {
                let kill = Process::new("kill")
                    .args(["-KILL", worker])
                    .stderr(Stdio::null())
                    .status();
                killed += u64::from(kill.unwrap().success());
            }
        };
        let cells = cells(records(&outdir));
        assert_eq!(cells.len(), TINY_CELLS, "every cell has a row");
        let failed = cells.values().filter(|status| **status != Status::Ok).count();
        assert_eq!(ended.code(), Some(i32::from(failed > 0)));
        assert!(
            cells
                .values()
                .all(|status| matches!(status, Status::Ok | Status::Crashed)),
            "{cells:?}"
        );
        finish_tiny(&model, &outdir);
        if killed >= KILLS {
            break;
        }
    }
}
