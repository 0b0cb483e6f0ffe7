//! `qbench analyze`.

use std::path::PathBuf;

use clap::Args;

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
