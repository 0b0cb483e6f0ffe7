//! Merging a sweep of 1,000, 10,000 and 100,000 finished cells: time and peak memory.
//!
//! Cells are simulated: records of real cells, of five modes, copied to as many conditions, batch sizes and repeats as
//! are asked for, five cells a task. `QBENCH_BENCH_CELLS` (such as `1000,10000`) changes the sizes, `QBENCH_BENCH_DIR` the
//! place, which needs 1.5 GB at 100,000 cells, twice. With `QBENCH_BENCH_ANALYSIS=1` the analysis is timed too.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{
    env, fs,
    io::{BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use qbench::sweep::{ExecutorKind, Sweep, SweepDirectory, TaskLine};
use qbench_core::results::{Record, read_journal};
use qbench_tests::{built, small_measurement};

const BATCH_SIZES: usize = 20;
const REPEATS: usize = 10;

fn main() {
    let sizes = env::var("QBENCH_BENCH_CELLS").unwrap_or_else(|_| "1000,10000,100000".to_owned());
    let place = env::var_os("QBENCH_BENCH_DIR").map_or_else(env::temp_dir, Into::into);
    let outdir = tempfile::tempdir().unwrap();
    assert!(
        small_measurement(outdir.path())
            .output()
            .unwrap()
            .status
            .success()
    );
    let records = read_journal(outdir.path()).unwrap().records;
    println!("  cells  tasks  journals GB  plan s  status s   MB  collect s   MB  with analysis s   MB");
    for cells in sizes.split(',') {
        let cells: usize = cells.trim().parse().unwrap();
        let directory = tempfile::tempdir_in(&place).unwrap();
        let started = Instant::now();
        let tasks = tasks(cells, &records);
        let sweep = simulated(directory.path(), &tasks);
        let planned = started.elapsed().as_secs_f64();
        let bytes = write_results(&sweep, &tasks, &records);
        let status = run(&["sweep", "status"], sweep.path());
        let collect = run(&["sweep", "collect", "--no-analysis"], sweep.path());
        let merged = fs::read_to_string(sweep.results().join("manifest.json")).unwrap();
        assert!(merged.contains(&format!("\"ok\": {cells}")), "{merged}");
        let analysis = if env::var_os("QBENCH_BENCH_ANALYSIS").is_some() {
            let (seconds, megabytes) = run(&["sweep", "collect"], sweep.path());
            format!("{seconds:>15.1}  {megabytes:>4.0}")
        } else {
            format!("{:>15}  {:>4}", "-", "-")
        };
        println!(
            "{cells:>7}  {:>5}  {:>11.2}  {planned:>6.1}  {:>8.1}  {:>3.0}  {:>9.1}  {:>3.0}  {analysis}",
            tasks.len(),
            bytes as f64 / 1e9,
            status.0,
            status.1,
            collect.0,
            collect.1,
        );
    }
}

/// Tasks with the modes of a repeat each.
fn tasks(cells: usize, records: &[Record]) -> Vec<TaskLine> {
    (0..cells / records.len())
        .map(|task| TaskLine {
            task,
            configuration: 0,
            group: 0,
            cells: records
                .iter()
                .map(|record| {
                    let mut cell = record.cell.clone();
                    cell.repeat = task % REPEATS;
                    cell.batch_size = 1 + task / REPEATS % BATCH_SIZES;
                    cell.condition = format!("tok={}", 16 + task / REPEATS / BATCH_SIZES);
                    cell
                })
                .collect(),
        })
        .collect()
}

fn simulated(path: &Path, tasks: &[TaskLine]) -> SweepDirectory {
    let directory = SweepDirectory::create(path).unwrap();
    let sweep: Sweep = serde_json::from_value(serde_json::json!({
        "schema": "qbench.sweep/1", "id": "00000000", "name": "simulated", "created": "2026-01-01T00:00:00Z",
        "program": "/", "program_sha256": "", "working_directory": "/", "executor": ExecutorKind::Local,
        "slurm": {}, "groups": [{}], "configurations": 0, "tasks": tasks.len(),
        "cells": tasks.iter().map(|task| task.cells.len()).sum::<usize>(), "threads": 2,
    }))
    .unwrap();
    directory.write(&sweep, "", &[], tasks).unwrap();
    directory
}

/// What tasks would have left. Returns the size of it.
fn write_results(directory: &SweepDirectory, tasks: &[TaskLine], records: &[Record]) -> u64 {
    let mut bytes = 0;
    let mut records = records.to_vec();
    for task in tasks {
        let path = directory.new_attempt(task.task).unwrap().join("cells.jsonl");
        let mut file = BufWriter::new(fs::File::create(&path).unwrap());
        for (record, cell) in records.iter_mut().zip(&task.cells) {
            record.cell.clone_from(cell);
            serde_json::to_writer(&mut file, record).unwrap();
            file.write_all(b"\n").unwrap();
        }
        bytes += file.into_inner().unwrap().metadata().unwrap().len();
    }
    bytes
}

/// Seconds and peak megabytes of the program.
fn run(arguments: &[&str], directory: &Path) -> (f64, f64) {
    let started = Instant::now();
    let mut child = Command::new(built().join("qbench"))
        .args(arguments)
        .arg(directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0;
    let ended = loop {
        // The system's own high-water mark: the last look before the end is near enough.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kilobytes) = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok())
        {
            peak = kilobytes * 1024.0 / 1e6;
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success(), "{arguments:?}: {ended}");
    (started.elapsed().as_secs_f64(), peak)
}
