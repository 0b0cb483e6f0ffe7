//! The command line as it is typed. What it means is decided in [`crate::run::Plan`] and in the commands.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf};

use clap::{
    Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind,
    parser::ValueSource,
};
use qbench_sdk::DType;

use crate::{
    child::{CHILD_COMMAND, Verb},
    plugins::SearchPath,
};

/// Benchmark of quantised genomic language models: speed, memory, energy, and what it does to the biology.
///
/// `qbench --plugin nf4_double` runs one mode beside `standard`; `qbench run` runs all five.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Cli {
    /// Parses a command line. Options of a run belong after `run`, or stand without a subcommand; `-q`, `-v` and `--json`
    /// may stand anywhere.
    pub fn parse_from_arguments<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = <Self as CommandFactory>::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        if let Some((name, _)) = matches.subcommand() {
            let typed = |argument: &&Arg| {
                matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
            };
            let misplaced = command
                .get_arguments()
                .filter(|argument| !argument.is_global_set())
                .find(typed)
                .map(ToString::to_string);
            if let Some(misplaced) = misplaced {
                let message =
                    format!("`{misplaced}` stands before `{name}`: options of a command come after it");
                return Err(command.error(ErrorKind::ArgumentConflict, message));
            }
        }
        Self::from_arg_matches(&matches)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure and evaluate modes on a model, then analyse and draw.
    Run(Box<RunArgs>),
    /// Make tables, figures and the report from a results directory, also one of the original Python system.
    Analyze(AnalyzeArgs),
    /// Compare two results directories cell by cell: is B as fast as A, and as good?
    Compare(CompareArgs),
    /// List, check and make plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Quantise a model and write it in bitsandbytes' format, which transformers loads.
    Quantize(QuantizeArgs),
    /// What this machine offers, what is missing, and why.
    Doctor(PluginDirArgs),
    /// A child process of this program.
    #[command(name = CHILD_COMMAND, hide = true)]
    Child {
        verb: Verb,
        job: PathBuf,
        result: PathBuf,
        memory: Option<u64>,
    },
}

/// How much is said, and in which form.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Say nothing but errors and the result.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more: -v what happens, -vv everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct PluginDirArgs {
    /// Directory to look for plugins in, before the standard ones; repeatable.
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
    /// Load this plugin file and those named likewise, and no other; repeatable. `qbench plugin list` shows hashes.
    #[arg(long, value_name = "sha256:HASH", value_parser = pin)]
    pub plugin_allow: Vec<String>,
}

impl PluginDirArgs {
    /// Where to look for plugins, besides files that are named.
    pub fn search(&self, files: Vec<PathBuf>) -> SearchPath {
        SearchPath {
            files,
            directories: self.plugin_dir.clone(),
            allowed: self.plugin_allow.clone(),
        }
    }
}

/// The digits of a hash that is written as `sha256:…`.
fn pin(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(digits.to_ascii_lowercase())
    } else {
        Err("expected sha256: and 64 hexadecimal digits".to_owned())
    }
}

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

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value < LEAST => Err(format!("expected at least {LEAST}")),
        Ok(value) => Ok(value),
        Err(error) => Err(format!("{error}")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        Ok(_) => Err("expected more than 0".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        Ok(_) => Err("expected 0 or more".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

#[derive(Clone, Debug, Args)]
pub struct AnalyzeArgs {
    /// Directory with benchmark_*.csv or performance_metrics.csv.
    #[arg(long, value_name = "DIR", default_value = "./results")]
    pub results_dir: PathBuf,
    /// Where tables, figures and the report go [default: RESULTS_DIR/analysis].
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Leave quality tables and figures out.
    #[arg(long)]
    pub skip_quality: bool,
    /// Print every weight: bits, bytes declared and held, and how it is run; also in memory_table.csv.
    #[arg(long)]
    pub memory_table: bool,
}

#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// What to compare with: a results directory, a copy of its cells.jsonl, or a benchmark CSV.
    pub a: PathBuf,
    /// What is compared, in the same forms.
    pub b: PathBuf,
    /// Difference in time per batch that counts as none, such as 3% or 0.03.
    #[arg(long, value_name = "SHARE", default_value = "3%", value_parser = share_of_time)]
    pub margin: f64,
    /// Probability of a wrong verdict over the whole table that is put up with.
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = probability)]
    pub alpha: f64,
    /// Ratio of the token KL that counts as equal.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share_of_time)]
    pub kl_margin: f64,
    /// Ratio of the perplexity that counts as equal.
    #[arg(long, value_name = "SHARE", default_value = "0.5%", value_parser = share_of_time)]
    pub perplexity_margin: f64,
    /// Verdicts that make the exit code 1: `regression` is slower or worse. A cell that failed in B counts as slower and
    /// as worse, one that B lacks as ambiguous.
    #[arg(long, value_name = "VERDICTS", default_value = "regression")]
    pub fail_on: FailOn,
    /// Form of the table; --json is --format json.
    #[arg(long, default_value = "text")]
    pub format: CompareFormat,
}

/// When a comparison says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    Regression,
    RegressionOrAmbiguous,
    Worse,
    Slower,
    SlowerOrAmbiguous,
    Never,
}

/// The form of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompareFormat {
    Text,
    Markdown,
    Json,
}

/// A share as a fraction or in per cent, above 0 and below `limit`.
fn share(text: &str, limit: f64) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|error| error.to_string())? / unit;
    if value > 0.0 && value < limit {
        Ok(value)
    } else {
        Err(format!(
            "expected more than 0 and less than {limit}, or in per cent"
        ))
    }
}

fn share_of_time(text: &str) -> Result<f64, String> {
    share(text, 1.0)
}

fn probability(text: &str) -> Result<f64, String> {
    share(text, 0.5)
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// List plugins, where each was found, what it offers, and why a file was refused.
    List(PluginListArgs),
    /// Say all about one plugin, or write that beside it, so that it can be listed without being run.
    Info(PluginInfoArgs),
    /// Try whether a plugin keeps its contract: the conformance kit, each case in a process of its own.
    Check(PluginCheckArgs),
    /// Write a new plugin that builds, passes its tests and runs.
    New(PluginNewArgs),
}

#[derive(Clone, Debug, Args)]
pub struct PluginListArgs {
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
    /// A plugin file to look at besides; repeatable.
    #[arg(long, value_name = "FILE")]
    pub plugin: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct PluginInfoArgs {
    /// A plugin file, or a mode or backend that it offers.
    #[arg(value_name = "FILE|NAME")]
    pub plugin: String,
    /// Ask the plugin and write what it says beside it, as FILE.json.
    #[arg(long)]
    pub write: bool,
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
}

#[derive(Clone, Debug, Args)]
pub struct PluginCheckArgs {
    /// The plugin's file.
    pub file: PathBuf,
    /// Case to try; repeatable [default: all].
    #[arg(long, value_name = "NAME")]
    pub case: Vec<String>,
    /// Device to try a backend on [default: its first].
    #[arg(long)]
    pub device: Option<String>,
    /// Seconds that a case may take before it is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = positive)]
    pub case_timeout: f64,
}

#[derive(Clone, Debug, Args)]
pub struct PluginNewArgs {
    /// Name of its crate and of its mode, such as my_scheme.
    pub name: String,
    /// Folder to write [default: NAME].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Folder of the crate qbench-sdk, from the source tree or unpacked from its package [default: the one that comes with
    /// this program, or else the published one].
    #[arg(long, value_name = "DIR")]
    pub sdk: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct QuantizeArgs {
    /// A Hugging Face directory or a hub id in the local cache; config.json and weights are enough.
    #[arg(value_name = "MODEL_DIR")]
    pub model: String,
    /// Mode to quantise with.
    #[arg(long)]
    pub mode: String,
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the directory if it is there.
    #[arg(long)]
    pub force: bool,
    /// Largest weight file in GB.
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub shard_size: f64,
    #[command(flatten)]
    pub plugin_dirs: PluginDirArgs,
    /// Weights that are not quantised, by name with wildcards; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub skip: Vec<String>,
    /// Quantise these weights only, by name with wildcards; repeatable.
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub threads: Option<usize>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::parse_from_arguments(line.split(' '))
    }

    #[test]
    fn output_options_stand_anywhere_and_options_of_a_run_after_it() {
        assert!(parse("qbench --json plugin list").unwrap().output.json);
        assert!(parse("qbench plugin list --json").unwrap().output.json);
        assert_eq!(parse("qbench -v run -v").unwrap().output.verbose, 1);
        assert!(parse("qbench --plugin nf4 -q").unwrap().output.quiet);
        let error = parse("qbench --outdir x run").unwrap_err();
        assert!(
            error.to_string().contains("`--outdir <DIR>` stands before `run`"),
            "{error}"
        );
    }

    #[test]
    fn a_pin_is_a_whole_hash() {
        let digits = "AB".repeat(32);
        let cli = parse(&format!("qbench plugin list --plugin-allow sha256:{digits}")).unwrap();
        let Some(Command::Plugin(PluginCommand::List(arguments))) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(arguments.plugin_dirs.plugin_allow, [digits.to_lowercase()]);
        for wrong in [
            "sha256:ab",
            "ab",
            "md5:00",
            &format!("sha256:{digits}0"),
            &format!("sha256:{}g", &digits[1..]),
        ] {
            assert!(
                parse(&format!("qbench run --plugin-allow {wrong}")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn conditions_that_leave_nothing_are_refused() {
        for line in [
            "--truncate-bp 0",
            "--truncate-tokens 2",
            "--bins 0",
            "--batch-sizes 0",
        ] {
            assert!(parse(&format!("qbench run {line}")).is_err(), "{line}");
        }
        assert!(
            parse("qbench run --truncate-bp 1 --bins 5").is_err(),
            "two kinds of condition"
        );
    }
}
