//! What was measured, by cell and block, from any file that says it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::quality::QualityCell;
use crate::results::{
    BenchmarkRow, JOURNAL_FILE, Record, ResultsError, read_benchmark, read_benchmarks, read_journal,
    read_journal_file,
};

/// Why measurements cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// There is nothing at the path.
    #[error("{} is not there; expected a results directory, a copy of its {JOURNAL_FILE}, or a benchmark CSV", path.display())]
    NotThere {
        /// The path.
        path: PathBuf,
    },
    /// There are no measurements at the path.
    #[error(
        "no measured cell in {}: expected {JOURNAL_FILE} with performance or quality cells, benchmark_*.csv or \
         performance_metrics.csv",
        path.display()
    )]
    NoCells {
        /// The path.
        path: PathBuf,
    },
    /// No cell is in both.
    #[error(
        "{} and {} have no cell in common; the first of each: {first_a}; {first_b} (`--across backend` compares cells of \
         different backends)",
        a.display(),
        b.display()
    )]
    NothingInCommon {
        /// The path of A.
        a: PathBuf,
        /// The path of B.
        b: PathBuf,
        /// A's first cell.
        first_a: String,
        /// B's first cell.
        first_b: String,
    },
    /// Cells are to be matched across a column that tells cells of one side apart.
    #[error("{}: several cells differ in their {} alone, so which of them is meant?", path.display(), columns.join(", "))]
    ManyAcross {
        /// The path.
        path: PathBuf,
        /// The columns.
        columns: Vec<String>,
    },
    /// A column that cells cannot be matched across.
    #[error("`{0}` is no column to compare across; known: model, backend, device, precision, condition")]
    UnknownColumn(String),
    /// A file is faulty.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

/// What identifies a cell but for the repeat. A column that a table does not have is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns of the benchmark table")]
pub struct CellKey {
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub mode: String,
    pub condition: String,
    pub workload: String,
    pub batch_size: Option<u64>,
}

/// A text of a key, by the name of its column.
type KeyColumn = (&'static str, fn(&mut CellKey) -> &mut String);

/// The columns without which cells can be told apart, should one side not have them.
const OPTIONAL_COLUMNS: [KeyColumn; 5] = [
    ("model", |key| &mut key.model),
    ("backend", |key| &mut key.backend),
    ("device", |key| &mut key.device),
    ("precision", |key| &mut key.precision),
    ("condition", |key| &mut key.condition),
];

impl CellKey {
    fn of(row: &BenchmarkRow) -> Self {
        Self {
            model: row.model.clone(),
            backend: row.backend.clone(),
            device: row.device.clone(),
            precision: row.precision.clone(),
            mode: row.quantization.clone(),
            condition: row.condition.clone(),
            workload: row.workload().to_owned(),
            batch_size: row.batch_size,
        }
    }

    /// All of it but what is empty, by name, the mode first.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let fields = [
            ("mode", self.mode.clone()),
            ("model", self.model.clone()),
            ("backend", self.backend.clone()),
            ("device", self.device.clone()),
            ("precision", self.precision.clone()),
            ("condition", self.condition.clone()),
            (
                "workload",
                Some(&self.workload)
                    .filter(|kind| *kind != "embed")
                    .cloned()
                    .unwrap_or_default(),
            ),
            (
                "batch size",
                self.batch_size.map(|size| size.to_string()).unwrap_or_default(),
            ),
        ];
        fields
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }
}

impl std::fmt::Display for CellKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields: Vec<String> = self
            .fields()
            .into_iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        f.write_str(&fields.join(", "))
    }
}

/// One repeat of a cell: a process of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Typical seconds of a batch (with batches of one shape their median), where it is known.
    pub median_seconds: Option<f64>,
    /// Mean of the same.
    pub mean_seconds: f64,
    /// Tokens in a batch in the mean, padding left out.
    pub tokens_per_batch: Option<f64>,
    /// Tokens a second.
    pub tokens_per_s: Option<f64>,
    /// Bases a second.
    pub bases_per_s: Option<f64>,
    /// Memory of the loaded model in GB.
    pub static_gb: Option<f64>,
    /// Largest memory in GB.
    pub peak_gb: Option<f64>,
}

impl Block {
    /// The block of a row with numbers; `None` when it has no time.
    fn of(row: &BenchmarkRow) -> Option<Self> {
        let mean_seconds = row.E2EL_ms? / 1e3;
        let per_batch = |total: u64, runs: u64| (runs > 0).then(|| total as f64 / runs as f64);
        let tokens = row
            .total_tokens
            .zip(row.runs)
            .and_then(|(total, runs)| per_batch(total, runs));
        let mean_tokens = row.mean_tokens.zip(row.batch_size);
        (mean_seconds.is_finite() && mean_seconds > 0.0).then(|| Self {
            median_seconds: row.batch_ms_median.map(|milliseconds| milliseconds / 1e3),
            mean_seconds,
            tokens_per_batch: tokens.or(mean_tokens.map(|(tokens, size)| tokens * size as f64)),
            tokens_per_s: row.tokens_per_s,
            bases_per_s: row.bases_per_s,
            static_gb: row.static_vram_GB,
            peak_gb: row.peak_vram_GB,
        })
    }
}

/// The blocks of a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredCell {
    /// Which cell.
    pub key: CellKey,
    /// Those with numbers, by repeat.
    pub blocks: BTreeMap<u64, Block>,
    /// Status and reason of those without.
    pub failures: Vec<String>,
}

/// A set of measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Where it was read.
    pub path: PathBuf,
    /// Its cells in the order of the files.
    pub cells: Vec<MeasuredCell>,
    /// Its quality cells, of a journal; tables do not keep sequences.
    pub quality: Vec<QualityCell>,
    /// Doubts about the files.
    pub warnings: Vec<String>,
}

impl Measured {
    /// Reads a results directory (its journal; without performance cells there, its benchmark tables), a benchmark
    /// table (`.csv`), or any other file as a copy of a journal.
    ///
    /// # Errors
    /// [`CompareError::NotThere`], [`CompareError::NoCells`], and [`CompareError::Results`] for a faulty file.
    pub fn read(path: &Path) -> Result<Self, CompareError> {
        let mut measured = Self {
            path: path.to_path_buf(),
            cells: Vec::new(),
            quality: Vec::new(),
            warnings: Vec::new(),
        };
        if path.is_dir() {
            let journal = read_journal(path)?;
            measured.warnings.extend(journal.warnings);
            measured.add_records(&journal.records);
            if measured.cells.is_empty() && measured.quality.is_empty() {
                for table in read_benchmarks(path)? {
                    measured.warnings.extend(table.warnings);
                    measured.add_rows(&table.rows);
                }
            }
        } else if !path.exists() {
            return Err(CompareError::NotThere {
                path: path.to_path_buf(),
            });
        } else if path.extension().is_some_and(|extension| extension == "csv") {
            let table = read_benchmark(path)?;
            measured.warnings.extend(table.warnings);
            measured.add_rows(&table.rows);
        } else {
            let journal = read_journal_file(path)?;
            measured.warnings.extend(journal.warnings);
            measured.add_records(&journal.records);
        }
        if measured.cells.is_empty() && measured.quality.is_empty() {
            return Err(CompareError::NoCells {
                path: path.to_path_buf(),
            });
        }
        Ok(measured)
    }

    fn add_records(&mut self, records: &[Record]) {
        self.quality.extend(records.iter().filter_map(QualityCell::of));
        let rows: Vec<BenchmarkRow> = records.iter().filter_map(BenchmarkRow::from_record).collect();
        self.add_rows(&rows);
    }

    fn add_rows(&mut self, rows: &[BenchmarkRow]) {
        for row in rows {
            self.add(row);
        }
    }

    /// Adds one repeat. The original's tables do not number repeats: theirs are numbered as they come.
    fn add(&mut self, row: &BenchmarkRow) {
        let key = CellKey::of(row);
        let place = self.cells.iter().position(|cell| cell.key == key);
        let place = place.unwrap_or_else(|| {
            self.cells.push(MeasuredCell {
                key,
                blocks: BTreeMap::new(),
                failures: Vec::new(),
            });
            self.cells.len() - 1
        });
        let cell = &mut self.cells[place];
        match Block::of(row).filter(|_| row.is_ok()) {
            Some(block) => {
                let next = cell.blocks.keys().next_back().map_or(0, |last| last + 1);
                let repeat = row.repeat.filter(|repeat| !cell.blocks.contains_key(repeat));
                cell.blocks.insert(repeat.unwrap_or(next), block);
            }
            None if row.is_ok() => cell.failures.push("no time was recorded".to_owned()),
            None => cell.failures.push(format!("{}: {}", row.status, row.reason)),
        }
    }

    /// Leaves columns out of what identifies cells, such as `backend`: cells of other values are then matched.
    ///
    /// # Errors
    /// [`CompareError::UnknownColumn`], and [`CompareError::ManyAcross`] when cells cannot be told apart any more.
    pub fn across(mut self, columns: &[String]) -> Result<Self, CompareError> {
        for name in columns {
            let (_, column) = OPTIONAL_COLUMNS
                .into_iter()
                .find(|(known, _)| known == name)
                .ok_or_else(|| CompareError::UnknownColumn(name.clone()))?;
            self.cells
                .iter_mut()
                .for_each(|cell| column(&mut cell.key).clear());
            self.quality
                .iter_mut()
                .for_each(|cell| column(&mut cell.key).clear());
        }
        if columns.is_empty() {
            return Ok(self);
        }
        let distinct = |keys: Vec<&CellKey>| keys.iter().collect::<HashSet<_>>().len() == keys.len();
        let cells = self.cells.iter().map(|cell| &cell.key).collect();
        let quality = self.quality.iter().map(|cell| &cell.key).collect();
        if distinct(cells) && distinct(quality) {
            Ok(self)
        } else {
            Err(CompareError::ManyAcross {
                path: self.path,
                columns: columns.to_vec(),
            })
        }
    }

    /// Empties the columns that `other` does not have in any cell, so that cells can be matched without them, where
    /// they can still be told apart then. Returns the names of these columns.
    pub(super) fn forget_columns_unknown_to(&mut self, other: &Self) -> Vec<&'static str> {
        let mut forgotten = Vec::new();
        for (name, column) in OPTIONAL_COLUMNS {
            let empty_in = |cells: &[MeasuredCell]| {
                let mut keys = cells.iter().map(|cell| cell.key.clone());
                keys.all(|mut key| column(&mut key).is_empty())
            };
            if !empty_in(&other.cells) || empty_in(&self.cells) {
                continue;
            }
            let without: Vec<CellKey> = self.cells.iter().map(|cell| cell.key.clone()).collect();
            let without: Vec<CellKey> = without
                .into_iter()
                .map(|mut key| {
                    column(&mut key).clear();
                    key
                })
                .collect();
            if without.iter().collect::<HashSet<_>>().len() == without.len() {
                for (cell, key) in self.cells.iter_mut().zip(without) {
                    cell.key = key;
                }
                forgotten.push(name);
            }
        }
        forgotten
    }
}
