//! Everything that a results directory holds, read once.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::AnalysisError;
use super::timing::{TimedCell, timed_cells};
use crate::results::{
    BenchmarkRow, Cell, CellKind, LOGITS_LAYER, Performance, QUALITY_FILE, QualityRow, Record, ResultsError,
    Status, WeightMemory, is_noise_floor, quality_rows, read_benchmarks, read_journal_adjusted, read_quality,
};

/// The contents of a results directory.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The files that were read.
    pub sources: Vec<PathBuf>,
    /// Rows of all benchmark tables, failed ones included.
    pub rows: Vec<BenchmarkRow>,
    /// The performance cells of the journal over their repeats.
    pub timed: Vec<TimedCell>,
    /// Rows of the quality table; empty when quality is skipped.
    pub quality: Vec<QualityRow>,
    /// The quality records of the journal, from which the quality tables can be written.
    pub quality_records: Vec<Record>,
    /// The journal's records about layers, parts and biology.
    pub evaluation_records: Vec<Record>,
    /// The weights of each mode and setting, of the first performance cell that recorded them.
    pub weights: Vec<(Cell, Vec<WeightMemory>)>,
    /// Doubts: of the files, and those that workers noted in the journal.
    pub warnings: Vec<String>,
}

impl Inputs {
    /// Reads `results_dir`. Quality comes from its journal; without quality cells there, from the first
    /// `quality_metrics.csv` in `results_dir`, `results_dir/analysis` (where the original kept it) or `output_dir`.
    ///
    /// # Errors
    /// [`AnalysisError::NoDirectory`], [`AnalysisError::NoResults`], [`AnalysisError::NothingSucceeded`], and
    /// [`AnalysisError::Results`] for a faulty file.
    pub fn read(results_dir: &Path, output_dir: &Path, skip_quality: bool) -> Result<Self, AnalysisError> {
        if !results_dir.is_dir() {
            return Err(AnalysisError::NoDirectory {
                directory: results_dir.to_path_buf(),
            });
        }
        let mut inputs = Self::default();
        for table in read_benchmarks(results_dir)? {
            inputs.sources.push(table.path);
            inputs.rows.extend(table.rows);
            inputs.warnings.extend(table.warnings);
        }
        // They are most of a record, and the same in every repeat.
        let mut weights = WeightsByMode::default();
        let journal = read_journal_adjusted(results_dir, |record| {
            weights.take(record);
            keep_times(record);
        })?;
        inputs.warnings.extend(journal.warnings);
        inputs.weights = weights.found;
        let mut noted = HashSet::new();
        for record in &journal.records {
            for warning in &record.warnings {
                if noted.insert((record.cell.mode.clone(), warning.clone())) {
                    inputs.warnings.push(format!("{}: {warning}", record.cell.mode));
                }
            }
        }
        inputs.timed = timed_cells(&journal.records);
        if !skip_quality {
            let (quality, evaluations) = journal
                .records
                .into_iter()
                .filter(|record| record.cell.kind != CellKind::Performance)
                .partition(|record| record.cell.kind == CellKind::Quality);
            inputs.quality_records = quality;
            inputs.evaluation_records = evaluations;
            inputs.read_quality(results_dir, output_dir)?;
        }
        inputs.check(results_dir)?;
        Ok(inputs)
    }

    fn read_quality(&mut self, results_dir: &Path, output_dir: &Path) -> Result<(), ResultsError> {
        let beside = results_dir.join(QUALITY_FILE);
        if !self.quality_records.is_empty() {
            self.quality = quality_rows(&self.quality_records);
            self.quality
                .retain(|row| !row.is_ok() || !is_noise_floor(&row.quantization_mode));
            if beside.exists() && !same_directory(results_dir, output_dir) {
                let note = format!(
                    "{} was not read: the journal holds quality cells",
                    beside.display()
                );
                self.warnings.push(note);
            }
            return Ok(());
        }
        let places = [
            beside,
            results_dir.join("analysis").join(QUALITY_FILE),
            output_dir.join(QUALITY_FILE),
        ];
        if let Some(path) = places.into_iter().find(|path| path.exists()) {
            self.quality = read_quality(&path)?;
            self.sources.push(path);
        }
        Ok(())
    }

    /// Modes with cells that failed or are invalid, each with the number of such cells by status.
    pub fn faulty(&self) -> BTreeMap<String, BTreeMap<String, usize>> {
        let performance = self
            .rows
            .iter()
            .filter(|row| !row.is_ok())
            .map(|row| (&row.quantization, row.status.as_str()));
        // A quality cell has one row of the logits among its rows.
        let quality = self
            .quality
            .iter()
            .filter(|row| !row.is_ok() && row.layer == LOGITS_LAYER)
            .map(|row| (&row.quantization_mode, row.status.as_str()));
        let mut faulty: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let evaluations = self
            .evaluation_records
            .iter()
            .filter(|record| record.status != Status::Ok)
            .map(|record| (&record.cell.mode, record.status.as_str()));
        for (mode, status) in performance.chain(quality).chain(evaluations) {
            *faulty
                .entry(mode.clone())
                .or_default()
                .entry(status.to_owned())
                .or_default() += 1;
        }
        faulty
    }

    fn check(&self, results_dir: &Path) -> Result<(), AnalysisError> {
        let directory = results_dir.to_path_buf();
        if self.rows.is_empty() && self.quality.is_empty() && self.evaluation_records.is_empty() {
            return Err(AnalysisError::NoResults { directory });
        }
        let rows = self
            .rows
            .iter()
            .map(|row| (row.is_ok(), &row.quantization, row.status.as_str(), &row.reason));
        let quality = self.quality.iter().map(|row| {
            (
                row.is_ok(),
                &row.quantization_mode,
                row.status.as_str(),
                &row.reason,
            )
        });
        let evaluations = self.evaluation_records.iter().map(|record| {
            let ok = record.status == Status::Ok;
            (ok, &record.cell.mode, record.status.as_str(), &record.reason)
        });
        let mut all = rows.chain(quality).chain(evaluations).peekable();
        let first = all
            .peek()
            .map(|&(_, mode, status, reason)| format!("{mode}: {status}: {reason}"));
        if all.any(|(ok, ..)| ok) {
            return Ok(());
        }
        let failed = self.rows.len() + self.quality_records.len() + self.evaluation_records.len();
        Err(AnalysisError::NothingSucceeded {
            directory,
            failed,
            first: first.unwrap_or_default(),
        })
    }
}

/// Leaves of a performance record what [`timed_cells`] needs; the rest is in the benchmark table, and of very many cells
/// would not fit into memory.
fn keep_times(record: &mut Record) {
    let Some(performance) = record.performance.take() else {
        return;
    };
    record.plugins = Vec::new();
    record.execution = Vec::new();
    record.performance = Some(Performance {
        batches: performance.batches,
        batch_seconds: performance.batch_seconds,
        convergence: performance.convergence,
        tokens: performance.tokens,
        bases: performance.bases,
        ..Performance::default()
    });
}

/// The weights of each mode and setting. Repeats, conditions and batch sizes load the same.
#[derive(Default)]
struct WeightsByMode {
    found: Vec<(Cell, Vec<WeightMemory>)>,
    seen: HashSet<[String; 5]>,
}

impl WeightsByMode {
    /// Takes the weights out of a record, and keeps the first of each setting.
    fn take(&mut self, record: &mut Record) {
        let weights = std::mem::take(&mut record.weights);
        let cell = &record.cell;
        let loaded = [
            &cell.model,
            &cell.backend,
            &cell.device,
            &cell.precision,
            &cell.mode,
        ]
        .map(Clone::clone);
        if !weights.is_empty() && self.seen.insert(loaded) {
            self.found.push((cell.clone(), weights));
        }
    }
}

fn same_directory(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
