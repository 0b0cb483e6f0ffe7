//! The hidden command of child processes.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use qbench_core::results::Status;

use super::quantize;
use crate::{
    child::{Verb, serve},
    plugins, worker,
};

pub(super) fn child(verb: Verb, job: &Path, result: &Path) -> Result<ExitCode> {
    match verb {
        Verb::Scan => {
            serve(job, result, |job| {
                plugins::scan_in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
        Verb::Check => {
            serve(job, result, |job| {
                plugins::check_in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
        Verb::Cell => serve(job, result, |job| worker::run(&job))?,
        Verb::Quantize => {
            serve(job, result, |job| {
                quantize::in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
