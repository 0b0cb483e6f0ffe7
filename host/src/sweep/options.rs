//! From a plan to command lines of `qbench run`: the options under `[run]` are its own, and checked by its own parser.

use anyhow::{Context, Result, anyhow};
use clap::CommandFactory;
use qbench_core::{
    sweep::{Configuration, SweepPlan, nearest},
    workload::Condition,
};

use crate::{
    cli::{Cli, Command, RunArgs},
    failure::usage,
};

/// Options of `qbench run` that the plan says otherwise, or that make no sense for a part of a run.
const NOT_FOR_SWEEPS: [(&str, &str); 16] = [
    ("model", "matrix.models"),
    ("data", "matrix.data"),
    ("csv", "matrix.data"),
    ("modes", "matrix.modes"),
    ("plugin", "matrix.modes; `plugin-dir` says where they are"),
    ("backend", "matrix.backends"),
    ("device", "matrix.devices"),
    ("precision", "matrix.precisions"),
    ("truncate-bp", "matrix.conditions, as in bp=10000"),
    ("truncate-tokens", "matrix.conditions, as in tok=512"),
    ("bins", "matrix.conditions, as in bin~5000"),
    ("batch-sizes", "matrix.batch_sizes"),
    ("seed", "matrix.seeds"),
    ("outdir", "--outdir of `qbench sweep`"),
    ("force", "nothing: a sweep runs what is missing"),
    (
        "keep-reference",
        "nothing: tasks make the references that they need",
    ),
];

/// The command line that all configurations share, without the program.
pub fn shared_arguments(plan: &SweepPlan) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for (key, value) in &plan.run {
        let option = key.replace('_', "-");
        check_option(&option)?;
        let values = match value {
            toml::Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            arguments.extend(match value {
                toml::Value::Boolean(true) => Some(format!("--{option}")),
                toml::Value::Boolean(false) => None,
                toml::Value::String(text) => Some(format!("--{option}={text}")),
                toml::Value::Integer(number) => Some(format!("--{option}={number}")),
                toml::Value::Float(number) => Some(format!("--{option}={number}")),
                _ => {
                    return Err(usage(anyhow!(
                        "run.{key}: expected a text, a number, or a list of these"
                    )));
                }
            });
        }
    }
    Ok(arguments)
}

fn check_option(option: &str) -> Result<()> {
    if let Some((_, instead)) = NOT_FOR_SWEEPS.iter().find(|(name, _)| *name == option) {
        return Err(usage(anyhow!(
            "run.{option} is no option of a sweep's cells; use {instead}"
        )));
    }
    let command = Cli::command();
    let run = command
        .find_subcommand("run")
        .context("the program has a command `run`")?;
    let names = || {
        run.get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|name| *name != "help" && !NOT_FOR_SWEEPS.iter().any(|(known, _)| known == name))
    };
    if names().any(|name| name == option) {
        return Ok(());
    }
    let suggestion =
        nearest(option, names()).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Err(usage(anyhow!(
        "run.{option} is no option of `qbench run`{suggestion}"
    )))
}

/// The command line of a configuration, with `shared` options and a default number of threads.
pub fn arguments(configuration: &Configuration, shared: &[String], threads: usize) -> Vec<String> {
    let mut arguments = vec!["qbench".to_owned(), "run".to_owned()];
    let mut add = |option: &str, value: &str| arguments.push(format!("--{option}={value}"));
    for (option, value) in [
        ("model", &configuration.model),
        ("data", &configuration.data),
        ("device", &configuration.device),
        ("precision", &configuration.precision),
    ] {
        if let Some(value) = value {
            add(option, value);
        }
    }
    add("backend", &configuration.backend);
    add("seed", &configuration.seed.to_string());
    for mode in configuration.modes() {
        add("modes", mode);
    }
    for size in configuration.batch_sizes() {
        add("batch-sizes", &size.to_string());
    }
    for condition in configuration.conditions() {
        match condition {
            Condition::Full => {}
            Condition::TruncateBp(bases) => add("truncate-bp", &bases.to_string()),
            Condition::TruncateTokens(tokens) => add("truncate-tokens", &tokens.to_string()),
            Condition::Bin(bases) => add("bins", &bases.to_string()),
        }
    }
    if !shared.iter().any(|argument| argument.starts_with("--threads=")) {
        add("threads", &threads.to_string());
    }
    arguments.extend_from_slice(shared);
    arguments
}

/// What a command line of `qbench run` says.
pub fn parse(arguments: &[String]) -> Result<RunArgs> {
    let cli = Cli::parse_from_arguments(arguments).map_err(|error| {
        let text = error.to_string();
        let first = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        usage(anyhow!("the plan cannot be run: {first}"))
    })?;
    match cli.command {
        Some(Command::Run(arguments)) => Ok(*arguments),
        _ => Err(anyhow!("no command line of a run: {}", arguments.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(text: &str) -> SweepPlan {
        SweepPlan::parse(text, Path::new("plan.toml")).unwrap()
    }

    #[test]
    fn a_configuration_is_a_command_line_that_the_parser_takes() {
        let plan = plan(
            "[matrix]\nmodes = ['8bit', '4bit_nf4']\nconditions = ['tok=64', 'tok=128']\nbatch_sizes = [1, \
             2]\nprecisions = ['bfloat16']\n[run]\nnum_repeats = 1\nevaluate = ['tokens', 'layers']\ntime-budget = \
             0.5\nskip = ['a*', 'b*']\nmemory-table = false\n",
        );
        let shared = shared_arguments(&plan).unwrap();
        let arguments = arguments(&plan.configurations().unwrap()[0], &shared, 3);
        let parsed = parse(&arguments).unwrap();
        assert_eq!(parsed.modes, ["8bit", "4bit_nf4"]);
        assert_eq!(parsed.truncate_tokens, [64, 128]);
        assert_eq!(parsed.batch_sizes.len(), 2);
        assert_eq!((parsed.num_repeats, parsed.time_budget), (1, 0.5));
        assert_eq!((parsed.evaluate.len(), parsed.skip.len()), (2, 2));
        assert_eq!((parsed.threads, parsed.seed), (Some(3), 42));
    }

    #[test]
    fn options_that_are_none_or_not_for_sweeps_are_named() {
        let message = |text| shared_arguments(&plan(text)).unwrap_err().to_string();
        assert!(message("[run]\nnum-repeat = 1\n").contains("did you mean `num-repeats`?"));
        assert!(message("[run]\nmodel = 'x'\n").contains("use matrix.models"));
        assert!(message("[run]\nwarmup = { a = 1 }\n").contains("run.warmup: expected"));
        let wrong = arguments(
            &plan("").configurations().unwrap()[0],
            &["--num-repeats=0".to_owned()],
            1,
        );
        assert!(parse(&wrong).unwrap_err().to_string().contains("--num-repeats"));
    }
}
