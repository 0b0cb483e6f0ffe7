//! A cell, run in a process of its own.

mod allocator;
mod biology;
mod forward;
mod job;
mod layers;
mod load;
mod noise;
mod performance;
mod probe;
mod quality;
mod resources;
mod witness;
mod workload;

pub use job::{CellJob, CellOutcome, DataSource, QualityTask, Question, SlidingWindows, Task};

use anyhow::Result;
use qbench_core::results::Status;

use crate::child::ChildResult;

/// Runs a cell. Called in the child.
///
/// # Errors
/// What went wrong, with the status that the cell gets.
pub fn run(job: &CellJob) -> ChildResult<CellOutcome> {
    run_task(job).map_err(|error| (status_of(&error), error))
}

fn run_task(job: &CellJob) -> Result<CellOutcome> {
    match &job.task {
        Task::Performance {
            workload,
            batch_size,
            sampling,
            max_batches,
        } => performance::run(job, *workload, *batch_size, sampling, *max_batches),
        Task::Reference(task) => quality::make_reference(job, task),
        Task::Quality(task) => quality::compare(job, task),
        Task::Layers { reference, samples } => layers::run(job, reference, *samples),
        Task::BiologyReference { question, directory } => biology::make_reference(job, *question, directory),
        Task::Biology { question, directory } => biology::compare(job, *question, directory),
    }
}

fn status_of(error: &anyhow::Error) -> Status {
    let out_of_memory = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(qbench_sdk::Error::OutOfMemory(_))));
    if out_of_memory {
        Status::OutOfMemory
    } else {
        Status::Error
    }
}
