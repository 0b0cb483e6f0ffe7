//! The command line as it is typed. What it means is decided in [`crate::run::Plan`] and in the commands.

mod analyze;
mod compare;
mod plugin;
mod quantize;
mod run;
mod sweep;
mod values;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource,
};

use crate::child::{CHILD_COMMAND, Verb};

pub use analyze::AnalyzeArgs;
pub use compare::{CompareArgs, CompareFormat, FailOn};
pub use plugin::{
    PluginCheckArgs, PluginCommand, PluginDirArgs, PluginInfoArgs, PluginListArgs, PluginNewArgs,
};
pub use quantize::QuantizeArgs;
pub use run::{Evaluate, Precision, RunArgs, Sensitivity, TimedWorkload, precision_name};
pub use sweep::{SweepArgs, SweepCommand, SweepStartArgs, SweepSubmitArgs};

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
    /// Many runs at once, here or on a Slurm cluster: submit a plan, follow it, go on with it, merge it.
    Sweep(SweepArgs),
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
