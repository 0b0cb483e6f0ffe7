//! `benchmark_<timestamp>.csv`: one row a performance cell, the original system's 24 columns first, then ours.
//!
//! Units are in the columns' names; GB = 1e9 bytes. What was not measured is an empty field, never 0. The definitions
//! of derived columns: `E2EL_ms` = elapsed / number of timed batches; `energy_kWh` = J / 3.6e6; `tokens_per_watt` =
//! tokens_per_s / avg_power_W (that is, tokens per joule); `TFLOPs_per_s` = flops_per_seq · seqs_per_s / 1e12;
//! `eff_x_per_TFLOP` = x_per_s / TFLOPs_per_s.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::csv_table::{read_table, write_table};
use super::{
    Cell, CellKind, LayerExecution, Performance, Record, ResultsError, Status, WeightMemory, write_atomically,
};

/// Bytes in a GB, as everywhere in the results.
const GB: f64 = 1e9;
/// Joules in a kilowatt hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// Columns that hold text; all others hold numbers.
const TEXT: [&str; 22] = [
    "model",
    "commit",
    "gpu_name",
    "driver",
    "cuda",
    "torch",
    "precision",
    "quantization",
    "condition",
    "status",
    "reason",
    "backend",
    "device",
    "memory_measured_by",
    "energy_reason",
    "execution",
    "device_name",
    "timing",
    "warmup_settled",
    "energy_source",
    "throttle",
    "workload",
];

/// One row of a benchmark table: a measured cell, or one that failed. Also read from the original system's tables,
/// whose missing columns are then empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are the columns; those whose name does not say it all have a comment"
)]
#[expect(non_snake_case, reason = "the columns' names are the original system's")]
pub struct BenchmarkRow {
    pub model: String,
    pub commit: String,
    /// Empty for a CPU, whose name is in `device_name`.
    pub gpu_name: String,
    pub driver: String,
    pub cuda: String,
    /// Name and version of the library under the backend.
    pub torch: String,
    pub precision: String,
    pub quantization: String,
    pub condition: String,
    pub mean_bp: Option<f64>,
    pub mean_tokens: Option<f64>,
    pub batch_size: Option<u64>,
    /// Number of timed batches.
    pub runs: Option<u64>,
    pub warmup: Option<u64>,
    pub E2EL_ms: Option<f64>,
    pub seqs_per_s: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub peak_vram_GB: Option<f64>,
    pub energy_kWh: Option<f64>,
    pub avg_power_W: Option<f64>,
    pub flops_per_seq: Option<f64>,
    pub TFLOPs_per_s: Option<f64>,
    pub eff_seq_per_TFLOP: Option<f64>,
    pub eff_tokens_per_TFLOP: Option<f64>,
    pub tokens_per_watt: Option<f64>,
    pub repeat: Option<u64>,
    /// [`Status`] in words; empty in the original's tables, which hold successes only.
    pub status: String,
    pub reason: String,
    pub backend: String,
    pub device: String,
    pub device_name: String,
    pub bases_per_s: Option<f64>,
    pub static_vram_GB: Option<f64>,
    pub duration_s: Option<f64>,
    pub total_seqs: Option<u64>,
    pub total_tokens: Option<u64>,
    pub total_bases: Option<u64>,
    pub load_s: Option<f64>,
    pub quantize_s: Option<f64>,
    pub quantize_GB_per_s: Option<f64>,
    pub tokenize_s: Option<f64>,
    pub flops_per_seq_exact: Option<f64>,
    pub J_per_token: Option<f64>,
    pub J_per_Mbp: Option<f64>,
    pub memory_measured_by: String,
    pub energy_reason: String,
    /// How the weights were executed, one entry a layout, as in `84 × qbench.block-codebook/1: native: gemm`.
    pub execution: String,
    pub truncated_seqs: Option<u64>,
    pub threads: Option<u64>,
    /// Times that the batches ran, each once.
    pub passes: Option<u64>,
    /// The typical time of a batch, with batches of one shape the median.
    pub batch_ms_median: Option<f64>,
    pub batch_ms_ci_low: Option<f64>,
    pub batch_ms_ci_high: Option<f64>,
    pub batch_ms_std: Option<f64>,
    pub batch_ms_min: Option<f64>,
    pub batch_ms_max: Option<f64>,
    pub batch_ms_p90: Option<f64>,
    pub batch_ms_p99: Option<f64>,
    pub batch_outliers: Option<u64>,
    /// The typical time of a batch by the device's own clock.
    pub device_ms_median: Option<f64>,
    /// At the typical time.
    pub tokens_per_s_median: Option<f64>,
    pub bases_per_s_median: Option<f64>,
    /// [`Convergence`](crate::measure::sampling::Convergence) in words.
    pub timing: String,
    pub warmup_s: Option<f64>,
    /// `yes` or `no`; empty where the number of warm-up batches was given.
    pub warmup_settled: String,
    /// Bytes that the layouts declare for all weights.
    pub declared_GB: Option<f64>,
    /// Bytes that scheme and backend declare besides.
    pub workspace_GB: Option<f64>,
    /// Bits a weight of the matrices that the mode stores, codes, scales and tables.
    pub bits_per_weight: Option<f64>,
    /// Growth of the system's count since before loading, after loading.
    pub system_static_GB: Option<f64>,
    /// Largest resident set of the process while the batches ran, mapped files included.
    pub process_peak_GB: Option<f64>,
    pub energy_source: String,
    /// By the device's counter, all of it.
    pub energy_counter_J: Option<f64>,
    /// By the integral of instant power.
    pub energy_integrated_J: Option<f64>,
    /// Above idle power.
    pub energy_net_J: Option<f64>,
    pub idle_before_W: Option<f64>,
    pub idle_after_W: Option<f64>,
    pub J_per_token_net: Option<f64>,
    pub J_per_Mbp_net: Option<f64>,
    pub sm_clock_MHz: Option<f64>,
    pub temperature_C: Option<f64>,
    /// What held the clocks down.
    pub throttle: String,
    /// [`WorkloadKind`](crate::workload::WorkloadKind) in words; empty in older tables, which hold `embed` only.
    pub workload: String,
    /// From the beginning of a generation to its first token: median (TTFT).
    pub ttft_ms_median: Option<f64>,
    /// From one token of a sequence to the next, after the first: median over generations (TPOT).
    pub tpot_ms_median: Option<f64>,
    /// Tokens that each sequence generated.
    pub generated_tokens: Option<u64>,
}

impl BenchmarkRow {
    /// Whether the row has numbers that can be believed.
    pub fn is_ok(&self) -> bool {
        self.status.is_empty() || self.status == Status::Ok.as_str()
    }

    /// What was measured, by the name of the column; rows of a comparison should agree in it.
    pub fn setting(&self) -> [(&'static str, &str); 6] {
        [
            ("model", &self.model),
            ("backend", &self.backend),
            ("device", &self.device),
            ("precision", &self.precision),
            ("condition", &self.condition),
            ("workload", self.workload()),
        ]
    }

    /// What was timed: tables that do not say hold `embed` only.
    pub fn workload(&self) -> &str {
        if self.workload.is_empty() {
            "embed"
        } else {
            &self.workload
        }
    }

    /// The row of a performance record; `None` for a record of another kind.
    pub fn from_record(record: &Record) -> Option<Self> {
        let mut row = Self {
            status: record.status.as_str().to_owned(),
            reason: record.reason.clone(),
            execution: describe_execution(&record.execution),
            ..Self::of_cell(&record.cell)?
        };
        // The numbers of an invalid cell are shown, beside the reason not to believe them.
        if let (Status::Ok | Status::Invalid, Some(performance)) = (record.status, &record.performance) {
            row.fill(performance);
            row.fill_resources(performance, &record.weights);
        }
        Some(row)
    }

    /// The row of a performance cell that has no numbers yet; `None` for a cell of another kind.
    pub(crate) fn of_cell(cell: &Cell) -> Option<Self> {
        (cell.kind == CellKind::Performance).then(|| Self {
            model: cell.model.clone(),
            precision: cell.precision.clone(),
            quantization: cell.mode.clone(),
            condition: cell.condition.clone(),
            workload: cell.workload.to_string(),
            batch_size: Some(cell.batch_size as u64),
            repeat: Some(cell.repeat as u64),
            backend: cell.backend.clone(),
            device: cell.device.clone(),
            ..Self::default()
        })
    }

    fn fill(&mut self, performance: &Performance) {
        let batches = performance.batch_seconds.len();
        let duration = positive(performance.batch_seconds.iter().sum());
        let per_second = |count: f64| duration.map(|duration| count / duration);
        let gigabytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / GB);
        let joules = performance.energy_joules.and_then(positive);
        let bases = performance.bases.map(|bases| bases as f64);

        self.commit.clone_from(&performance.commit);
        self.device_name.clone_from(&performance.device_name);
        if !is_cpu(&self.device) {
            self.gpu_name.clone_from(&performance.device_name);
        }
        self.driver.clone_from(&performance.driver);
        self.cuda.clone_from(&performance.cuda);
        self.torch.clone_from(&performance.library);
        self.mean_bp = performance.mean_bp;
        self.mean_tokens = Some(performance.mean_tokens);
        self.runs = Some(batches as u64);
        self.warmup = Some(performance.warm_up.batch_seconds.len() as u64);
        self.E2EL_ms = duration.map(|duration| duration / batches as f64 * 1e3);
        self.seqs_per_s = per_second(performance.sequences as f64);
        self.tokens_per_s = per_second(performance.tokens as f64);
        self.peak_vram_GB = gigabytes(performance.peak_bytes);
        self.energy_kWh = joules.map(|joules| joules / JOULES_PER_KWH);
        self.avg_power_W = quotient(joules, duration);
        self.flops_per_seq = performance.flops_per_sequence;
        self.TFLOPs_per_s = self
            .flops_per_seq
            .zip(self.seqs_per_s)
            .map(|(flops, rate)| flops * rate / 1e12);
        self.eff_seq_per_TFLOP = quotient(self.seqs_per_s, self.TFLOPs_per_s);
        self.eff_tokens_per_TFLOP = quotient(self.tokens_per_s, self.TFLOPs_per_s);
        self.tokens_per_watt = quotient(self.tokens_per_s, self.avg_power_W);

        self.bases_per_s = bases.and_then(per_second);
        self.static_vram_GB = gigabytes(performance.static_bytes);
        self.duration_s = duration;
        self.total_seqs = Some(performance.sequences);
        self.total_tokens = Some(performance.tokens);
        self.total_bases = performance.bases;
        self.load_s = Some(performance.load_seconds);
        self.quantize_s = Some(performance.quantize_seconds);
        self.quantize_GB_per_s = quotient(
            positive(performance.quantize_source_bytes as f64 / GB),
            Some(performance.quantize_seconds),
        );
        self.tokenize_s = Some(performance.tokenize_seconds);
        self.flops_per_seq_exact = performance.flops_per_sequence_exact;
        self.J_per_token = quotient(joules, Some(performance.tokens as f64));
        self.J_per_Mbp = quotient(joules, bases.map(|bases| bases / 1e6));
        self.memory_measured_by
            .clone_from(&performance.memory_measured_by);
        self.energy_reason.clone_from(&performance.energy_reason);
        self.truncated_seqs = Some(performance.truncated_sequences);
        self.threads = Some(performance.threads as u64);
        self.fill_times(performance);
    }

    fn fill_times(&mut self, performance: &Performance) {
        let milliseconds = |seconds: f64| seconds * 1e3;
        let batches = performance.batch_seconds.len();
        self.passes = batches
            .checked_div(performance.batches.len())
            .map(|passes| passes as u64);
        if let Some(times) = performance.batch_times() {
            let per_second = |count: u64| {
                let count = count as f64 / batches as f64;
                quotient(Some(count), Some(times.median))
            };
            self.batch_ms_median = Some(milliseconds(times.median));
            self.batch_ms_ci_low = times.interval.map(|interval| milliseconds(interval.low));
            self.batch_ms_ci_high = times.interval.map(|interval| milliseconds(interval.high));
            self.batch_ms_std = times.std.map(milliseconds);
            self.batch_ms_min = Some(milliseconds(times.min));
            self.batch_ms_max = Some(milliseconds(times.max));
            self.batch_ms_p90 = times.p90.map(milliseconds);
            self.batch_ms_p99 = times.p99.map(milliseconds);
            self.batch_outliers = Some(times.outliers as u64);
            self.tokens_per_s_median = per_second(performance.tokens);
            self.bases_per_s_median = performance.bases.and_then(per_second);
        }
        if let Some(generation) = performance.generation_times() {
            self.ttft_ms_median = Some(milliseconds(generation.first_token));
            self.tpot_ms_median = generation.each_further_token.map(milliseconds);
        }
        self.generated_tokens = performance.generated_tokens;
        self.device_ms_median = performance.device_median().map(milliseconds);
        if let Some(convergence) = performance.convergence {
            convergence.as_str().clone_into(&mut self.timing);
        }
        self.warmup_s = Some(performance.warm_up.batch_seconds.iter().sum());
        if let Some(settled) = performance.warm_up.settled {
            if settled { "yes" } else { "no" }.clone_into(&mut self.warmup_settled);
        }
    }

    /// Memory and energy in detail.
    fn fill_resources(&mut self, performance: &Performance, weights: &[WeightMemory]) {
        let gigabytes = |bytes: u64| bytes as f64 / GB;
        if let Some(memory) = &performance.memory {
            self.declared_GB = Some(gigabytes(memory.declared_bytes));
            self.workspace_GB = Some(gigabytes(memory.workspace_bytes));
            self.system_static_GB = memory.system.map(|[loaded, _]| gigabytes(loaded));
            self.process_peak_GB = memory.process_peak_bytes.map(gigabytes);
        }
        let stored = weights.iter().filter(|weight| weight.quantised);
        let (bytes, elements) = stored.fold((0, 0), |(bytes, elements), weight| {
            (bytes + weight.held_bytes, elements + weight.rows * weight.cols)
        });
        self.bits_per_weight = quotient(Some(bytes as f64 * 8.0), Some(elements as f64));
        let Some(energy) = &performance.energy else {
            return;
        };
        self.energy_source.clone_from(&energy.source);
        self.energy_counter_J = energy.counter_joules;
        self.energy_integrated_J = energy.integrated_joules;
        self.energy_net_J = energy.net_joules;
        self.idle_before_W = energy.idle_before_watts;
        self.idle_after_W = energy.idle_after_watts;
        self.J_per_token_net = quotient(energy.net_joules, Some(performance.tokens as f64));
        let megabases = performance.bases.map(|bases| bases as f64 / 1e6);
        self.J_per_Mbp_net = quotient(energy.net_joules, megabases);
        self.sm_clock_MHz = energy.sm_clock_mhz.map(|clock| clock.mean);
        self.temperature_C = energy.celsius.map(|celsius| celsius.max);
        self.throttle = energy.throttle.join(", ");
    }
}

fn is_cpu(device: &str) -> bool {
    device.split(':').next() == Some("cpu")
}

fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

fn quotient(numerator: Option<f64>, denominator: Option<f64>) -> Option<f64> {
    Some(numerator? / denominator.and_then(positive)?)
}

fn describe_execution(layers: &[LayerExecution]) -> String {
    let parts: Vec<String> = layers
        .iter()
        .map(|layer| format!("{} × {}: {}", layer.weights, layer.layout, layer.execution))
        .collect();
    parts.join("; ")
}

/// Writes `benchmark_<timestamp>.csv` and `benchmark_<timestamp>.meta.json` into `results_dir` from the performance
/// records, failed ones included, and returns the table's path.
///
/// `timestamp` is that of the run's start. An older benchmark table of this program, and its meta file, are removed
/// once the new one is in place, so that one is left; a table of the original system (without the column `status`)
/// is not ours to remove and stays.
///
/// # Errors
/// [`ResultsError::Timestamp`], or [`ResultsError::Io`] when the directory cannot be written.
pub fn write_benchmark(
    results_dir: &Path,
    timestamp: &str,
    records: &[Record],
    meta: &serde_json::Value,
) -> Result<PathBuf, ResultsError> {
    let rows: Vec<BenchmarkRow> = records.iter().filter_map(BenchmarkRow::from_record).collect();
    write_benchmark_rows(results_dir, timestamp, &rows, meta)
}

/// The same of rows.
///
/// # Errors
/// Those of [`write_benchmark`].
pub fn write_benchmark_rows(
    results_dir: &Path,
    timestamp: &str,
    rows: &[BenchmarkRow],
    meta: &serde_json::Value,
) -> Result<PathBuf, ResultsError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    if timestamp.is_empty() || !timestamp.chars().all(allowed) {
        return Err(ResultsError::Timestamp {
            timestamp: timestamp.to_owned(),
        });
    }
    let path = results_dir.join(format!("benchmark_{timestamp}.csv"));
    write_atomically(&meta_path(&path), |file| {
        serde_json::to_writer_pretty(&mut *file, meta)?;
        file.write_all(b"\n")
    })?;
    write_table(&path, rows)?;
    for older in tables_of(results_dir)? {
        if older != path && is_ours(&older) {
            fs::remove_file(&older).map_err(ResultsError::io("remove", &older))?;
            let meta = meta_path(&older);
            if meta.exists() {
                fs::remove_file(&meta).map_err(ResultsError::io("remove", &meta))?;
            }
        }
    }
    Ok(path)
}

fn meta_path(table: &Path) -> PathBuf {
    table.with_extension("meta.json")
}

fn is_ours(table: &Path) -> bool {
    let Ok(mut reader) = csv::Reader::from_path(table) else {
        return false;
    };
    let Ok(headers) = reader.headers() else {
        return false;
    };
    ["status", "repeat", "execution"]
        .iter()
        .all(|ours| headers.iter().any(|header| header == *ours))
}

/// The benchmark tables of a directory, sorted by name: `benchmark_*.csv` and `performance_metrics.csv`.
fn tables_of(results_dir: &Path) -> Result<Vec<PathBuf>, ResultsError> {
    let entries = fs::read_dir(results_dir).map_err(ResultsError::io("read directory", results_dir))?;
    let mut tables = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ResultsError::io("read directory", results_dir))?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let is_table = name == "performance_metrics.csv"
            || (name.starts_with("benchmark_") && Path::new(name).extension() == Some(OsStr::new("csv")));
        if is_table {
            tables.push(entry.path());
        }
    }
    tables.sort();
    Ok(tables)
}

/// A benchmark table as read.
#[derive(Debug)]
pub struct BenchmarkTable {
    /// The file.
    pub path: PathBuf,
    /// Its rows, in order.
    pub rows: Vec<BenchmarkRow>,
    /// Doubts about them.
    pub warnings: Vec<String>,
}

/// Reads every benchmark table of a directory: ours, the original system's `benchmark_*.csv`, and its later
/// `performance_metrics.csv`, in any mixture. None at all gives an empty list.
///
/// # Errors
/// Those of [`read_benchmark`], and [`ResultsError::Io`] when the directory cannot be read.
pub fn read_benchmarks(results_dir: &Path) -> Result<Vec<BenchmarkTable>, ResultsError> {
    tables_of(results_dir)?
        .iter()
        .map(|path| read_benchmark(path))
        .collect()
}

/// Reads one benchmark table of any of the three kinds.
///
/// The original wrote 0 for memory, power and energy that it had not measured. These cannot be 0, so that in a table
/// without the column `status` a 0 there is read as "not measured", with a warning.
///
/// # Errors
/// [`ResultsError::MissingColumn`] when `quantization`, `batch_size` or `tokens_per_s` is not there, and the other
/// faults of a table.
pub fn read_benchmark(path: &Path) -> Result<BenchmarkTable, ResultsError> {
    let (mut rows, columns): (Vec<BenchmarkRow>, _) =
        read_table(path, &["quantization"], &["batch_size", "tokens_per_s"], &TEXT)?;
    let mut warnings = Vec::new();
    if !columns.iter().any(|column| column == "status") {
        let zeros: usize = rows.iter_mut().map(drop_impossible_zeros).sum();
        if zeros > 0 {
            warnings.push(format!(
                "{}: {zeros} value(s) of memory, power or energy are 0, which the original system wrote when it had \
                 not measured; they are left out",
                path.display()
            ));
        }
    }
    Ok(BenchmarkTable {
        path: path.to_path_buf(),
        rows,
        warnings,
    })
}

fn drop_impossible_zeros(row: &mut BenchmarkRow) -> usize {
    let fields = [
        &mut row.static_vram_GB,
        &mut row.peak_vram_GB,
        &mut row.avg_power_W,
        &mut row.energy_kWh,
        &mut row.tokens_per_watt,
    ];
    fields
        .into_iter()
        .filter_map(|field| field.take_if(|value| *value == 0.0))
        .count()
}

#[cfg(test)]
mod tests;
