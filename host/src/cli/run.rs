//! `qbench run`, and options without a command.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, ValueEnum};
use qbench_sdk::DType;

use super::{
    plugin::PluginDirArgs,
    values::{at_least, not_negative, positive, share_of_time},
};

#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RunArgs {
    /// Mode to run beside `standard` (`nf4_double`, `8bit:threshold=5`), or a plugin file whose modes all run; repeatable.
    #[arg(long, value_name = "MODE|FILE")]
    pub plugin: Vec<String>,
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
    /// Modes to run [default: standard 8bit 4bit_nf4 4bit_fp4 4bit_nf4_double].
    #[arg(long, value_name = "MODE", num_args = 1.., value_delimiter = ' ')]
    pub modes: Vec<String>,
    /// Backend that runs the model.
    #[arg(long, default_value = "cpu")]
    pub backend: String,
    /// Device, as `qbench plugin list` names it [default: the backend's first].
    #[arg(long)]
    pub device: Option<String>,
    /// Type of dense weights and of the inputs of matrix products [default: float32 on a CPU, bfloat16 elsewhere].
    #[arg(long)]
    pub precision: Option<Precision>,
    /// Model: a Hugging Face directory, a hub id in the local cache, or synthetic:CONFIG.json [default: go-mini-12m].
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Sequences: CSV or TSV with the columns genome_id and seq, or FASTA, each plain or gzip [default: 26 fragments of
    /// 13 species].
    #[arg(long, visible_alias = "csv", value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Cut sequences to this many bases; one condition a value.
    #[arg(long, value_name = "BASES", num_args = 1.., value_delimiter = ',', value_parser = at_least::<1>, group = "condition")]
    pub truncate_bp: Vec<usize>,
    /// Cut sequences to this many tokens, [CLS] and [SEP] included; one condition a value.
    #[arg(long, value_name = "TOKENS", num_args = 1.., value_delimiter = ',', value_parser = at_least::<3>, group = "condition")]
    pub truncate_tokens: Vec<usize>,
    /// Sort sequences into bins of about this many bases; one condition a value.
    #[arg(long, value_name = "BASES", num_args = 1.., value_delimiter = ',', value_parser = at_least::<1>, group = "condition")]
    pub bins: Vec<usize>,
    /// Longest sequence in tokens, [CLS] and [SEP] included [default: the model's limit].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(3..))]
    pub max_tokens: Option<u32>,
    /// Sequences a condition at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least::<1>)]
    pub samples_per_cond: usize,
    /// Sequences a call.
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',', default_value = "4")]
    pub batch_sizes: Vec<NonZeroUsize>,
    /// Batches that run before the timed ones [default: until their times are steady, 50 batches and a fifth of the time
    /// budget at most].
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// Times that each cell runs, in a fresh process each.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least::<1>)]
    pub num_repeats: usize,
    /// Timing stops when the 95 % interval of the typical time of a batch is within this share of it to either side.
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share_of_time)]
    pub target_ci: f64,
    /// Seconds after which timing stops anyway; every batch is timed once in any case.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = not_negative)]
    pub time_budget: f64,
    /// What is timed.
    #[arg(long, value_name = "WHAT", default_value = "embed")]
    pub workload: TimedWorkload,
    /// Tokens of a prompt, the first of each sequence that has as many [default: 128].
    #[arg(long, value_name = "TOKENS")]
    pub prompt_tokens: Option<NonZeroUsize>,
    /// Tokens to generate after a prompt [default: 32].
    #[arg(long, value_name = "TOKENS")]
    pub generate_tokens: Option<NonZeroUsize>,
    /// Batches of a pass at most.
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub max_batches: Option<usize>,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Threads of the backend [default: all cores].
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub threads: Option<usize>,
    /// Weights that are not quantised, by name with wildcards; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub skip: Vec<String>,
    /// Quantise these weights only, by name with wildcards; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// Seconds that a cell may take before it is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0, value_parser = positive)]
    pub cell_timeout: f64,
    /// Memory in GB that a cell may allocate; mapped model files do not count [default: no limit].
    #[arg(long, value_name = "GB", value_parser = positive)]
    pub memory_limit: Option<f64>,
    /// Run cells again that an earlier run into OUTDIR has finished.
    #[arg(long)]
    pub force: bool,
    /// Print every weight: bits, bytes declared and held, and how it is run; also in analysis/memory_table.csv.
    #[arg(long)]
    pub memory_table: bool,
    /// Do not measure speed, memory and energy.
    #[arg(long)]
    pub skip_performance: bool,
    /// Do not evaluate quality.
    #[arg(long, conflicts_with_all = ["evaluate", "sensitivity"])]
    pub skip_quality: bool,
    /// What to evaluate of quality.
    #[arg(long, value_name = "WHAT", num_args = 1.., value_delimiter = ',', default_value = "tokens,layers")]
    pub evaluate: Vec<Evaluate>,
    /// Quantise one layer, or one kind of projection, at a time too, and rank them by what that does to predictions.
    #[arg(long, value_name = "WHAT")]
    pub sensitivity: Option<Sensitivity>,
    /// Sequences, spread evenly over all, whose hidden states are compared layer by layer.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least::<1>)]
    pub layer_sequences: usize,
    /// Bases of the windows of reverse-complement and variants.
    #[arg(long, value_name = "BASES", default_value_t = 512, value_parser = at_least::<1>)]
    pub window_bp: usize,
    /// Positions at which variants makes all three substitutions.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least::<1>)]
    pub variant_positions: usize,
    /// What quality is compared with: `f32` (the model in f32), `standard` (in the run's precision), or the directory
    /// `reference` that an earlier run kept, also of another backend.
    #[arg(long, value_name = "f32|standard|DIR", default_value = "f32")]
    pub reference: String,
    /// Keep the reference's logits in OUTDIR.
    #[arg(long)]
    pub keep_reference: bool,
    /// Sequences a call where quality is evaluated; modes like 8bit depend on what shares a call.
    #[arg(long, value_name = "N", default_value = "1")]
    pub quality_batch_size: NonZeroUsize,
    /// Evaluate perplexity also over sliding windows of this many tokens, of sequences in their whole length.
    #[arg(long, value_name = "TOKENS", value_parser = at_least::<2>)]
    pub context_len: Option<usize>,
    /// Tokens from one window's start to the next [default: half of --context-len].
    #[arg(long, value_name = "TOKENS", value_parser = at_least::<1>, requires = "context_len")]
    pub stride: Option<usize>,
    /// Where results go.
    #[arg(long, value_name = "DIR", default_value = "./results")]
    pub outdir: PathBuf,
}

/// What `--workload` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TimedWorkload {
    /// A forward pass that ends in mean-pooled embeddings
    Embed,
    /// A forward pass with the logits of all positions
    Score,
    /// Generation after a prompt, token by token: time to the first token and for each further one
    Decode,
}

/// What `--evaluate` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evaluate {
    /// Next-token distributions and pooled embeddings of every sequence
    Tokens,
    /// Every hidden state, token by token
    Layers,
    /// Whether both strands are read alike
    ReverseComplement,
    /// Effects of single-nucleotide variants
    Variants,
    /// Sorting fragments by genome
    Binning,
    /// All of these
    All,
}

/// What `--sensitivity` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sensitivity {
    /// One layer at a time
    Layers,
    /// All weights of one name at a time
    Projections,
}

/// The precision of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    #[value(alias = "f32")]
    Float32,
    #[value(alias = "f16")]
    Float16,
    #[value(alias = "bf16")]
    Bfloat16,
}

impl Precision {
    pub fn dtype(self) -> DType {
        match self {
            Self::Float32 => DType::F32,
            Self::Float16 => DType::F16,
            Self::Bfloat16 => DType::BF16,
        }
    }
}

/// The name of a precision in tables.
pub fn precision_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::I8 | DType::U8 => "integer",
    }
}
