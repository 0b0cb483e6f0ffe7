//! What each command does.

mod analyze;
mod child;
mod compare;
mod doctor;
mod plugin;
mod plugin_check;
mod plugin_new;
mod quantize;
mod run;
mod sweep;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command, PluginCommand};

/// Does what the command line says.
///
/// # Errors
/// Whatever keeps the command from its end; [`crate::failure::exit_code`] tells the code.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let output = cli.output;
    match cli.command {
        None => run::run(&cli.run, &output),
        Some(Command::Run(arguments)) => run::run(&arguments, &output),
        Some(Command::Sweep(arguments)) => sweep::sweep(arguments, &output),
        Some(Command::Analyze(arguments)) => analyze::analyze(&arguments, &output),
        Some(Command::Compare(arguments)) => compare::compare(&arguments, &output),
        Some(Command::Plugin(PluginCommand::List(arguments))) => plugin::list(&arguments, &output),
        Some(Command::Plugin(PluginCommand::Info(arguments))) => plugin::info(&arguments, &output),
        Some(Command::Plugin(PluginCommand::Check(arguments))) => plugin_check::check(&arguments, &output),
        Some(Command::Plugin(PluginCommand::New(arguments))) => plugin_new::new(&arguments, &output),
        Some(Command::Quantize(arguments)) => quantize::quantize(&arguments, &output),
        Some(Command::Doctor(arguments)) => doctor::doctor(&arguments, &output),
        Some(Command::Child {
            verb,
            job,
            result,
            memory,
        }) => child::child(verb, &job, &result, memory),
    }
}
