//! `qbench sweep`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Subcommand};

use super::values::{at_least, positive};
use crate::sweep::ExecutorKind;

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SweepArgs {
    #[command(subcommand)]
    pub command: Option<SweepCommand>,
    #[command(flatten)]
    pub start: SweepStartArgs,
}

#[derive(Clone, Debug, Args)]
pub struct SweepStartArgs {
    /// What to measure: a TOML file, see docs/sweeps.md and examples/plans.
    #[arg(value_name = "PLAN.toml", required = true)]
    pub plan: Option<PathBuf>,
    /// Who runs it.
    #[arg(long, default_value = "local")]
    pub executor: ExecutorKind,
    /// The sweep's directory, which all nodes must see [default: ./sweep-NAME].
    #[arg(long, value_name = "DIR")]
    pub outdir: Option<PathBuf>,
    /// Cells that a task runs one after the other [default: those that are compared with each other, all modes of a
    /// repeat or of an evaluation].
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub cells_per_task: Option<usize>,
    /// Say what would be done: cells, time, memory, and the scripts; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub submit: SweepSubmitArgs,
}

#[derive(Clone, Debug, Args)]
pub struct SweepSubmitArgs {
    /// Tasks at once, for --executor local; each has its share of the cores [default: 1].
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// GPUs to give out, one a task, by number or UUID, for --executor local [default: one task at a time, on the GPUs
    /// that are visible].
    #[arg(long, value_name = "GPU,...", value_delimiter = ',')]
    pub gpus: Vec<String>,
    /// Tasks of a group at once at most, for --executor slurm.
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub throttle: Option<usize>,
    /// An option of sbatch, such as --sbatch=--time=4:00:00, for every job, which prevails over the plan's (but for those of
    /// the job that merges); repeatable.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub sbatch: Vec<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum SweepCommand {
    /// How far a sweep has come. Exit code 1 when something has stopped short.
    Status(SweepDirArgs),
    /// The same again and again until nothing is under way.
    Watch {
        #[command(flatten)]
        sweep: SweepDirArgs,
        /// Seconds between two looks.
        #[arg(long, default_value_t = 30.0, value_parser = positive)]
        interval: f64,
    },
    /// What tasks said.
    Logs {
        #[command(flatten)]
        sweep: SweepDirArgs,
        /// Task; repeatable [default: those that are not finished].
        #[arg(long, value_name = "N")]
        task: Vec<usize>,
        /// Last lines of each.
        #[arg(long, default_value_t = 20)]
        lines: usize,
    },
    /// Stop what is waiting or running; what is finished is kept.
    Cancel(SweepDirArgs),
    /// Submit what is missing or failed, and not under way.
    Resume {
        #[command(flatten)]
        sweep: SweepDirArgs,
        /// Who runs it [default: as the sweep began].
        #[arg(long)]
        executor: Option<ExecutorKind>,
        #[command(flatten)]
        submit: SweepSubmitArgs,
    },
    /// Merge what there is into a results directory and analyse it. Exit code 1 when cells are missing or failed.
    Collect {
        #[command(flatten)]
        sweep: SweepDirArgs,
        /// Where to [default: DIR/results].
        #[arg(long, value_name = "DIR")]
        outdir: Option<PathBuf>,
        /// Merge only.
        #[arg(long)]
        no_analysis: bool,
    },
    /// Print a script for sbatch that runs all modes and the analysis in one job.
    Script,
    /// Run a task; jobs do that.
    #[command(hide = true)]
    Task {
        dir: PathBuf,
        number: usize,
        /// End when the process that started this one ends.
        #[arg(long)]
        with_parent: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub struct SweepDirArgs {
    /// The sweep's directory.
    pub dir: PathBuf,
}
