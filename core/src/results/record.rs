//! What a finished cell leaves behind: one [`Record`], one line of `OUTDIR/cells.jsonl`.
//!
//! Everything else in a results directory (the CSV tables, the figures, the report) is computed from these lines.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CellMemory, Evaluation, Probe, TokenQuality, WeightMemory};
use crate::invariants::Violation;
use crate::measure::energy::Energy;
use crate::measure::sampling::{Convergence, WarmUpRun};
use crate::statistics::Interval;
use crate::workload::WorkloadKind;

/// Id of this record format, written into every line.
pub const RECORD_SCHEMA: &str = "qbench.record/1";

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The cell has its numbers.
    Ok,
    /// The worker reported an error.
    Error,
    /// The worker died of a signal.
    Crashed,
    /// The worker ended without leaving a result.
    NoResult,
    /// The worker was stopped because it ran too long.
    TimedOut,
    /// The worker ran out of memory.
    OutOfMemory,
    /// The cell has its numbers, and they are not to be believed: see [`Record::violations`].
    Invalid,
}

impl Status {
    /// The word used in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Crashed => "crashed",
            Self::NoResult => "no_result",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::Invalid => "invalid",
        }
    }
}

/// What a cell measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKind {
    /// Speed, memory, energy.
    Performance,
    /// What quantisation does to the model's outputs.
    Quality,
    /// The same when a part of the weights is quantised ([`Cell::part`]) and the rest left as it is.
    Sensitivity,
    /// What quantisation does to every hidden state.
    Layers,
    /// Whether the model says the same of both strands.
    ReverseComplement,
    /// The effects of single-nucleotide variants.
    Variants,
    /// Sorting fragments by genome.
    Binning,
}

impl CellKind {
    /// What is measured, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Performance => "performance",
            Self::Quality => "quality",
            Self::Sensitivity => "sensitivity",
            Self::Layers => "hidden states",
            Self::ReverseComplement => "reverse complement",
            Self::Variants => "variant effects",
            Self::Binning => "binning",
        }
    }
}

/// Which cell this is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// What is measured.
    pub kind: CellKind,
    /// The model as tables show it (a directory's name, a hub id, `synthetic:NAME`).
    pub model: String,
    /// The backend's id.
    pub backend: String,
    /// The device's id, such as `cpu` or `cuda:0`.
    pub device: String,
    /// `float32`, `float16` or `bfloat16`.
    pub precision: String,
    /// The mode's id with its options; the column `quantization`.
    pub mode: String,
    /// The condition's label: `full`, `bp=10000`, `tok=512`, `bin~5000`.
    pub condition: String,
    /// What is timed, in a performance cell.
    #[serde(default, skip_serializing_if = "WorkloadKind::is_embed")]
    pub workload: WorkloadKind,
    /// Sequences per call.
    pub batch_size: usize,
    /// Number of the repeat, from 0.
    pub repeat: usize,
    /// The weights that a sensitivity cell quantises, such as `layers.3` or `k_proj`; empty for other cells.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub part: String,
}

/// One line of the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_SCHEMA`].
    pub schema: String,
    /// Which cell.
    pub cell: Cell,
    /// How it ended.
    pub status: Status,
    /// Why it did not end well; empty when it did.
    #[serde(default)]
    pub reason: String,
    /// Files of the plugins that took part, with their hashes.
    #[serde(default)]
    pub plugins: Vec<PluginUse>,
    /// How each kind of weight was executed: native kernel or which fallback.
    #[serde(default)]
    pub execution: Vec<LayerExecution>,
    /// Doubts about the numbers, printed once and kept.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What must hold whatever is measured, and did not; any makes the cell [`Status::Invalid`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// Every weight of the model, in performance cells and the quality cells of modes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightMemory>,
    /// The numbers of a performance cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// The numbers of a quality or sensitivity cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// The numbers of a cell about layers or biology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// A plugin file that took part in a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginUse {
    /// The scheme or backend taken from it.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// How the weights of one layout and shape were executed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerExecution {
    /// Kind id of the layout.
    pub layout: String,
    /// Number of weights with this layout and execution.
    pub weights: usize,
    /// In words: `native: <kernel>`, `scheme matmul`, `dequantize to bf16 at load`.
    pub execution: String,
}

/// The numbers of a performance cell. A value that could not be measured is `None`, never 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// The batches of a pass, in the order in which they ran.
    #[serde(default)]
    pub batches: Vec<BatchShape>,
    /// Seconds of each timed batch by the host's clock, whole passes one after the other: the sample at `i` is of
    /// `batches[i mod batches.len()]`.
    pub batch_seconds: Vec<f64>,
    /// Seconds of the same batches by the device's own clock; empty where it has none.
    #[serde(default)]
    pub device_seconds: Vec<f64>,
    /// Seconds from the beginning of each timed generation to its first token; empty for other workloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_token_seconds: Vec<f64>,
    /// Tokens that each sequence of those generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated_tokens: Option<u64>,
    /// The batches that ran before the timed ones.
    #[serde(default)]
    pub warm_up: WarmUpRun,
    /// Why timing stopped.
    #[serde(default)]
    pub convergence: Option<Convergence>,
    /// 95 % interval of the typical seconds of a batch within this process; `None` of too few samples.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// Sequences in the timed batches, those of all passes together.
    pub sequences: u64,
    /// Tokens in the timed batches, padding left out; where tokens are generated, the generated ones.
    pub tokens: u64,
    /// Bases that those tokens stand for; random tokens stand for none.
    pub bases: Option<u64>,
    /// Mean length of a sequence in bases.
    pub mean_bp: Option<f64>,
    /// Mean length of a sequence in tokens.
    pub mean_tokens: f64,
    /// Sequences that `--max-tokens` cut short.
    pub truncated_sequences: u64,
    /// Seconds to tokenise, outside the timed region.
    pub tokenize_seconds: f64,
    /// Seconds to load the model, quantising left out.
    pub load_seconds: f64,
    /// Seconds spent in the scheme's `quantize`.
    pub quantize_seconds: f64,
    /// Bytes of source weights that were quantised in that time.
    pub quantize_source_bytes: u64,
    /// Bytes held by the loaded model before the first pass.
    pub static_bytes: Option<u64>,
    /// Largest number of bytes held while the batches ran.
    pub peak_bytes: Option<u64>,
    /// Who counted the memory.
    pub memory_measured_by: String,
    /// The witnesses of the memory.
    #[serde(default)]
    pub memory: Option<CellMemory>,
    /// The passes after the timed ones.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// Joules used in the timed region, idle power included.
    pub energy_joules: Option<f64>,
    /// Why there is no energy reading.
    pub energy_reason: String,
    /// The energy reading in full.
    #[serde(default)]
    pub energy: Option<Energy>,
    /// Floating-point operations a sequence by the original's formula, see [`crate::measure`].
    pub flops_per_sequence: Option<f64>,
    /// Floating-point operations a sequence, counted exactly from the configuration.
    pub flops_per_sequence_exact: Option<f64>,
    /// Name of the device, such as `NVIDIA H200` or the CPU's model.
    pub device_name: String,
    /// Driver version, where there is one.
    pub driver: String,
    /// CUDA version, where there is one.
    pub cuda: String,
    /// Name and version of the library under the backend (the column `torch`).
    pub library: String,
    /// Version control revision of the model or program, where known (the column `commit`).
    pub commit: String,
    /// Threads that the backend was given.
    pub threads: usize,
}

/// What a batch holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchShape {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of the longest, to which the others are padded.
    pub length: usize,
    /// Tokens, padding left out.
    pub tokens: u64,
}

/// The numbers of a quality cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Why there are no numbers, for example `synthetic`.
    #[serde(default)]
    pub reason: String,
    /// Sequences that were compared.
    pub sequences: u64,
    /// Tokens that were compared.
    pub tokens: u64,
    /// Sequences per call.
    pub batch_size: usize,
    /// What was compared with: mode and precision, and the directory where it was kept from an earlier run.
    #[serde(default)]
    pub reference: String,
    /// Pooled-embedding metrics, one entry a layer (`last`, `second_last`).
    pub layers: Vec<LayerQuality>,
    /// Token-level metrics over the next-token distribution.
    pub tokens_level: Option<TokenQuality>,
    /// Statistics of the pooled values, reference and mode.
    pub distributions: Vec<DistributionStatistics>,
}

/// Metrics of one layer's pooled embeddings against the reference, averaged over sequences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerQuality {
    /// `last` (after the final norm) or `second_last`.
    pub layer: String,
    /// Histogram KL of the original system: 50 bins of the reference's values.
    pub kl_divergence: Option<f64>,
    /// Jensen–Shannon distance squared of the same histograms.
    pub js_divergence: Option<f64>,
    /// Cosine of the two vectors.
    pub cosine_similarity: Option<f64>,
    /// Mean squared difference.
    pub mse: Option<f64>,
    /// Mean absolute difference.
    pub mae: Option<f64>,
    /// 10 · log10(mean(ref²) / mean((ref − x)²)); `None` where the vectors are equal (see `snr_infinite`).
    pub snr_db: Option<f64>,
    /// Sequences whose vectors are exactly equal, hence without a finite SNR.
    pub snr_infinite: u64,
    /// Pearson correlation of the two vectors.
    pub pearson_correlation: Option<f64>,
    /// Values that were not finite.
    pub non_finite: u64,
}

/// Statistics of the values of one layer, of the reference or of the mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DistributionStatistics {
    /// `last` or `second_last`.
    pub layer: String,
    /// `standard_stats` or `quantized_stats`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Mean.
    #[serde(with = "super::number")]
    pub mean: f64,
    /// Standard deviation, ddof = 0.
    #[serde(with = "super::number")]
    pub std: f64,
    /// Smallest value.
    #[serde(with = "super::number")]
    pub min: f64,
    /// Largest value.
    #[serde(with = "super::number")]
    pub max: f64,
    /// Median.
    #[serde(with = "super::number")]
    pub median: f64,
    /// First quartile.
    #[serde(with = "super::number")]
    pub q25: f64,
    /// Third quartile.
    #[serde(with = "super::number")]
    pub q75: f64,
    /// Skewness, biased.
    #[serde(with = "super::number")]
    pub skewness: f64,
    /// Fisher's kurtosis, biased.
    #[serde(with = "super::number")]
    pub kurtosis: f64,
}
