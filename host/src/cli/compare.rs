//! `qbench compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::{probability, share_of_time};

#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// What to compare with: a results directory, a copy of its cells.jsonl, or a benchmark CSV.
    pub a: PathBuf,
    /// What is compared, in the same forms.
    pub b: PathBuf,
    /// Columns in which compared cells may differ: backend, device, precision, model, condition.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub across: Vec<String>,
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
