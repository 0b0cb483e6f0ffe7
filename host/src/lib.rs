//! The host: discovers plugins, runs each cell in a process of its own, keeps what they measured.
//!
//! The program `qbench` is [`main`]; the rest is public for tests that look inside.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "the host is a program; its library exists for the program and for tests"
)]

mod child;
mod cli;
mod commands;
pub mod energy;
mod failure;
mod hash;
mod interrupt;
mod machine;
pub mod plugins;
mod printer;
mod run;
mod share;
mod splitmix;
pub mod sweep;
mod worker;

use std::{io::IsTerminal, process::ExitCode};

use qbench_sdk::{
    host::{LogSink, set_log_sink},
    log::Level,
};
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

/// Environment variable with what is logged, in the notation of `tracing`; it prevails over `-q` and `-v`.
const LOG_VARIABLE: &str = "QBENCH_LOG";

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match cli::Cli::parse_from_arguments(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows where each belongs.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                failure::USAGE
            } else {
                failure::OK
            });
        }
    };
    start_log(&cli.output);
    match commands::dispatch(cli).and_then(|code| printer::finish().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            printer::note(&format!("error: {error:#}"));
            failure::exit_code(&error)
        }
    }
}

fn start_log(output: &cli::OutputArgs) {
    let level = match output.verbose {
        _ if output.quiet => "error",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(text) => EnvFilter::try_new(&text).unwrap_or_else(|error| {
            printer::note(&format!("{LOG_VARIABLE}=`{text}` is ignored: {error}"));
            EnvFilter::new(level)
        }),
        Err(_) => EnvFilter::new(level),
    };
    fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .finish()
        .init();
    set_log_sink(LogSink {
        enabled: |_| true,
        write: log_of_a_plugin,
    });
}

fn log_of_a_plugin(level: Level, target: &str, message: &str) {
    match level {
        Level::Error => tracing::error!(target: "plugin", plugin = target, "{message}"),
        Level::Warning => tracing::warn!(target: "plugin", plugin = target, "{message}"),
        Level::Info => tracing::info!(target: "plugin", plugin = target, "{message}"),
        Level::Debug => tracing::debug!(target: "plugin", plugin = target, "{message}"),
    }
}
