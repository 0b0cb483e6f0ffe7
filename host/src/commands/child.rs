//! The hidden command of child processes.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use qbench_core::results::Status;

use super::quantize;
use crate::{
    child::{Verb, serve},
    plugins, worker,
};

pub(super) fn child(verb: Verb, job: &Path, result: &Path, memory: Option<u64>) -> Result<ExitCode> {
    match verb {
        Verb::Scan => {
            serve(job, result, memory, |job| {
                plugins::scan_in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
        Verb::Check => {
            serve(job, result, memory, |job| {
                plugins::check_in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
        Verb::Conformance => {
            serve(job, result, memory, |job| {
                plugins::try_case_in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
        Verb::Cell => serve(job, result, memory, |job| worker::run(&job))?,
        Verb::Quantize => {
            serve(job, result, memory, |job| {
                quantize::in_this_process(&job).map_err(|error| (Status::Error, error))
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
