//! Merging what tasks have left into a results directory, and analysing it.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use qbench_core::{
    analysis::{AnalysisError, AnalysisOptions, AnalysisSummary, analyze},
    results::{JOURNAL_FILE, write_atomically, write_benchmark_rows},
    sweep::{CellState, Merged, merge},
};
use serde_json::json;

use super::SweepDirectory;
use crate::{
    failure::usage,
    printer,
    run::{MANIFEST_FILE, describe, write_json},
};

/// Held while results are merged.
const LOCK_FILE: &str = ".collect.lock";
/// Cells without numbers, in the results directory, while there are any.
pub const UNFINISHED_FILE: &str = "unfinished.csv";

/// What was collected.
pub struct Collection {
    pub results: PathBuf,
    pub merged: Merged,
    /// `None` when no cell has numbers, or no analysis was asked for.
    pub analysis: Option<AnalysisSummary>,
}

/// Merges every task's results into `results`, and analyses them. Of several at once, one works and the others wait.
///
/// # Errors
/// Files that cannot be read or written; what `results` held before is then still there.
pub fn collect(directory: &SweepDirectory, results: &Path, with_analysis: bool) -> Result<Collection> {
    let _lock = wait_for_lock(directory)?;
    let sweep = directory.sweep()?;
    fs::create_dir_all(results)
        .with_context(|| format!("create {}", results.display()))
        .map_err(usage)?;
    let merged = merge(&results.join(JOURNAL_FILE), directory.task_files()?).map_err(usage)?;
    let configurations: Vec<_> = (0..sweep.configurations)
        .map(|number| Ok(directory.configuration(number)?.plan))
        .collect::<Result<_>>()?;
    let meta = json!({ "sweep": sweep, "configurations": configurations });
    if !merged.rows.is_empty() {
        let timestamp = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S").to_string();
        write_benchmark_rows(results, &timestamp, &merged.rows, &meta).map_err(usage)?;
    }
    write_manifest(directory, results, &merged, &meta)?;
    write_unfinished(&results.join(UNFINISHED_FILE), &merged)?;
    let analysis = if with_analysis {
        match analyze(results, &results.join("analysis"), AnalysisOptions::default()) {
            Ok(summary) => Some(summary),
            // Their reasons are in the table and in the list of unfinished cells.
            Err(AnalysisError::NothingSucceeded { .. } | AnalysisError::NoResults { .. }) => None,
            Err(error) => return Err(error.into()),
        }
    } else {
        None
    };
    Ok(Collection {
        results: results.to_path_buf(),
        merged,
        analysis,
    })
}

fn wait_for_lock(directory: &SweepDirectory) -> Result<fs::File> {
    if let Some(lock) = directory.lock(LOCK_FILE)? {
        return Ok(lock);
    }
    printer::note("another collect of this sweep is at work: waiting for it");
    directory.wait_for_lock(LOCK_FILE)
}

fn write_manifest(
    directory: &SweepDirectory,
    results: &Path,
    merged: &Merged,
    meta: &serde_json::Value,
) -> Result<()> {
    let mut outcome: BTreeMap<&str, usize> = BTreeMap::from([("ok", merged.done)]);
    for unfinished in &merged.unfinished {
        *outcome.entry(state_word(&unfinished.state)).or_default() += 1;
    }
    let manifest = json!({
        "schema": "qbench.sweep-manifest/1",
        "collected": jiff::Timestamp::now().to_string(),
        "command": env::args().collect::<Vec<_>>(),
        "directory": directory.path(),
        "plan": meta,
        "cells": merged.expected,
        "outcome": outcome,
        "measured_again": merged.repeated,
        "warnings": merged.all_warnings(),
    });
    write_json(&results.join(MANIFEST_FILE), &manifest)
}

/// A state in one word of tables.
pub(super) fn state_word(state: &CellState) -> &'static str {
    match state {
        CellState::Done => "ok",
        CellState::Failed(status, _) => status.as_str(),
        CellState::Missing => "missing",
    }
}

fn write_unfinished(path: &Path, merged: &Merged) -> Result<()> {
    if merged.unfinished.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    write_atomically(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        let columns = [
            "task",
            "kind",
            "model",
            "backend",
            "device",
            "precision",
            "quantization",
            "condition",
        ];
        let more = ["batch_size", "repeat", "part", "status", "reason"];
        let other = std::io::Error::other;
        table.write_record(columns.iter().chain(&more)).map_err(other)?;
        for unfinished in &merged.unfinished {
            let cell = &unfinished.cell;
            let reason = match &unfinished.state {
                CellState::Failed(_, reason) => reason.as_str(),
                _ => "",
            };
            table
                .write_record([
                    &unfinished.task.to_string(),
                    cell.kind.as_str(),
                    &cell.model,
                    &cell.backend,
                    &cell.device,
                    &cell.precision,
                    &cell.mode,
                    &cell.condition,
                    &cell.batch_size.to_string(),
                    &cell.repeat.to_string(),
                    &cell.part,
                    state_word(&unfinished.state),
                    reason,
                ])
                .map_err(other)?;
        }
        table.flush()
    })
    .map_err(usage)
}

impl Collection {
    /// What is lacking, in lines for people; none when every cell has numbers.
    pub fn lacking(&self) -> Vec<String> {
        /// More cells than this are in the file only.
        const NAMED: usize = 10;
        let merged = &self.merged;
        let unfinished = merged.unfinished.len();
        if unfinished == 0 {
            return Vec::new();
        }
        let missing = merged.missing();
        let mut lines = vec![format!(
            "{unfinished} of {} cells have no numbers: {missing} missing, {} failed or invalid",
            merged.expected,
            unfinished - missing
        )];
        lines.extend(merged.unfinished.iter().take(NAMED).map(|unfinished| {
            let reason = match &unfinished.state {
                CellState::Failed(_, reason) => format!(": {reason}"),
                _ => String::new(),
            };
            let cell = &unfinished.cell;
            format!(
                "  task {}: {}, {}: {}{reason}",
                unfinished.task,
                cell.model,
                describe(cell),
                state_word(&unfinished.state)
            )
        }));
        let rest = unfinished.saturating_sub(NAMED);
        let more = if rest > 0 {
            format!("  and {rest} more; ")
        } else {
            "  ".to_owned()
        };
        lines.push(format!(
            "{more}all are in {}",
            self.results.join(UNFINISHED_FILE).display()
        ));
        lines
    }
}
