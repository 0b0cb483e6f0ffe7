//! Who runs tasks.

use std::{collections::BTreeMap, num::NonZeroUsize};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Sweep, SweepDirectory, local::Local, slurm::Slurm};

/// Who runs tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// This machine, until all is done
    Local,
    /// A Slurm cluster
    Slurm,
}

/// How tasks are submitted, beyond what the plan says.
#[derive(Clone, Debug, Default)]
pub struct SubmitOptions {
    /// Tasks at once, of the local executor.
    pub jobs: Option<NonZeroUsize>,
    /// GPUs that the local executor gives out, one a task.
    pub gpus: Vec<String>,
    /// Tasks at once of a group, of Slurm.
    pub throttle: Option<usize>,
    /// Further options of `sbatch`, which prevail over the plan's.
    pub sbatch: Vec<String>,
    pub quiet: bool,
}

/// A task that is to run.
#[derive(Clone, Copy, Debug)]
pub struct Submission {
    pub task: usize,
    pub group: usize,
    /// Whether its cells run on a GPU.
    pub on_gpu: bool,
}

/// Where a job stands, in the executor's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobState {
    /// The job as its commands name it.
    pub job: String,
    pub state: String,
    pub reason: String,
    pub node: String,
}

/// What an executor knows of a sweep's tasks.
#[derive(Clone, Debug, Default)]
pub struct Flight {
    /// Tasks that are waiting or running.
    pub under_way: BTreeMap<usize, JobState>,
    /// Tasks whose last job ended, as far as the executor remembers.
    pub ended: BTreeMap<usize, JobState>,
    /// The job that merges, where it is waiting or running.
    pub collecting: Option<JobState>,
    /// How many of the tasks are in a queue, where one was asked. It may know of a job only a little after it was
    /// submitted.
    pub in_queue: Option<usize>,
    /// Why the executor could not be asked: nothing is known then, least of all that a task is over.
    pub unknown: Option<String>,
}

/// Runs tasks of a sweep, or has them run.
pub trait Executor {
    /// Whether tasks can be submitted from here; asked before a sweep is written.
    ///
    /// # Errors
    /// They cannot.
    fn check(&self) -> Result<()>;

    /// Submits tasks, and what merges them when they and those that are under way here are over; without tasks, only that.
    /// The local executor returns when they are over.
    ///
    /// # Errors
    /// Tasks cannot be submitted; the message says which are on their way all the same.
    fn submit(
        &self,
        directory: &SweepDirectory,
        sweep: &Sweep,
        tasks: &[Submission],
        options: &SubmitOptions,
    ) -> Result<()>;

    /// What is under way here.
    fn flight(&self, directory: &SweepDirectory) -> Result<Flight>;

    /// Stops what is under way here; says what was done, or nothing where there was nothing to do.
    fn cancel(&self, directory: &SweepDirectory) -> Result<Option<String>>;

    /// Whether `submit` returns while tasks still run, and arranges that they are merged.
    fn is_detached(&self) -> bool;
}

/// What is under way, whoever runs it: a sweep may have begun on a cluster and go on here.
pub(super) fn flight(directory: &SweepDirectory) -> Result<Flight> {
    let mut flight = Slurm.flight(directory)?;
    flight.under_way.extend(Local.flight(directory)?.under_way);
    Ok(flight)
}

/// Stops what is under way, whoever runs it; says what was done.
pub fn cancel(directory: &SweepDirectory) -> Result<Vec<String>> {
    let executors: [&dyn Executor; 2] = [&Local, &Slurm];
    let mut done = Vec::new();
    for executor in executors {
        done.extend(executor.cancel(directory)?);
    }
    Ok(done)
}

/// The executor of a kind.
pub fn executor(kind: ExecutorKind) -> Box<dyn Executor> {
    match kind {
        ExecutorKind::Local => Box::new(Local),
        ExecutorKind::Slurm => Box::new(Slurm),
    }
}
