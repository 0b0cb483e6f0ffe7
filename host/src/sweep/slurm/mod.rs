//! A Slurm cluster as an executor.
//!
//! Slurm is told by its own commands and never relied on for results: a job that is gone from its memory, a task that
//! was cancelled before it began, and an array that was lost with the controller all look the same, and what is missing
//! is seen by the files. Jobs are found by their names, which hold the sweep's id and the list of tasks, so that nothing
//! is lost when the submitting host dies between two steps.

mod command;
mod queue;
mod script;

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use anyhow::{Context, Result, anyhow};

use super::{
    Submission, SubmitOptions, Sweep, SweepDirectory,
    executor::{Executor, Flight},
    round::{Round, write_file},
};
use crate::{failure::usage, printer};

/// Slurm's own default of MaxArraySize, for a dry run where there is no Slurm.
const DEFAULT_ARRAY_SIZE: usize = 1001;

/// A Slurm cluster.
pub struct Slurm;

impl Executor for Slurm {
    fn check(&self) -> Result<()> {
        array_size().map(drop)
    }

    fn submit(
        &self,
        directory: &SweepDirectory,
        sweep: &Sweep,
        tasks: &[Submission],
        options: &SubmitOptions,
    ) -> Result<()> {
        let size = array_size()?;
        let under_way = self.flight(directory)?.under_way;
        if tasks.is_empty() && under_way.is_empty() {
            return Ok(());
        }
        let round = directory.new_round()?;
        let mut jobs: Vec<String> = Vec::new();
        let mut last_of_group: BTreeMap<usize, String> = BTreeMap::new();
        let mut submitted = 0;
        for (group, list, count) in write_lists(&round, tasks, size)? {
            let script = list.with_extension("sh");
            write_file(
                &script,
                &script::array(directory, sweep, group, &list, count, options),
            )?;
            let throttled = options.throttle.or(sweep.slurm.throttle).is_some();
            // One array after the other, or the limit would hold for each of them.
            let after: Vec<&String> = last_of_group
                .get(&group)
                .filter(|_| throttled)
                .into_iter()
                .collect();
            match command::submit(&script, &after) {
                Ok(job) => {
                    submitted += count;
                    write_file(&list.with_extension("job"), &format!("{job}\n"))?;
                    last_of_group.insert(group, job.clone());
                    jobs.push(job);
                }
                Err(error) => {
                    // The list stays: a job that Slurm took without being able to say so is found by it.
                    if submitted > 0 {
                        submit_collect(directory, sweep, &round, &jobs, options)?;
                    }
                    return Err(error.context(format!(
                        "{submitted} of {} tasks were submitted; `qbench sweep resume {}` submits the rest when the \
                         cause is mended",
                        tasks.len(),
                        directory.path().display()
                    )));
                }
            }
        }
        if !options.quiet && submitted > 0 {
            printer::note(&format!(
                "submitted {submitted} tasks as job{} {}",
                if jobs.len() == 1 { "" } else { "s" },
                jobs.join(", ")
            ));
        }
        jobs.extend(under_way.values().map(|state| base_job(&state.job).to_owned()));
        jobs.sort_unstable();
        jobs.dedup();
        submit_collect(directory, sweep, &round, &jobs, options)
    }

    fn flight(&self, directory: &SweepDirectory) -> Result<Flight> {
        queue::flight(directory)
    }

    fn cancel(&self, directory: &SweepDirectory) -> Result<Option<String>> {
        let flight = self.flight(directory)?;
        if let Some(reason) = flight.unknown {
            return Err(usage(anyhow!(
                "Slurm does not answer, nothing was cancelled: {reason}"
            )));
        }
        let tasks = flight.under_way.len();
        let states = flight.under_way.into_values().chain(flight.collecting);
        let mut jobs: Vec<String> = states.map(|state| base_job(&state.job).to_owned()).collect();
        jobs.sort_unstable();
        jobs.dedup();
        if jobs.is_empty() {
            return Ok(None);
        }
        command::cancel(&jobs)?;
        Ok(Some(format!(
            "cancelled {tasks} task(s), job(s) {}; what they finished is kept",
            jobs.join(", ")
        )))
    }

    fn is_detached(&self) -> bool {
        true
    }
}

/// How many tasks an array may have.
fn array_size() -> Result<usize> {
    command::array_size()
        .map_err(|error| usage(error).context("nothing was submitted: Slurm does not answer"))
}

/// Submits the job that merges and analyses when all others are over.
fn submit_collect(
    directory: &SweepDirectory,
    sweep: &Sweep,
    round: &Round,
    after: &[String],
    options: &SubmitOptions,
) -> Result<()> {
    let script = round.path.join("collect.sh");
    write_file(&script, &script::collect(directory, sweep, round, options))?;
    let job = command::submit(&script, &after.iter().collect::<Vec<_>>()).context(
        "the tasks are on their way, but not the job that collects: run `qbench sweep collect` later",
    )?;
    write_file(&script.with_extension("job"), &format!("{job}\n"))?;
    if !options.quiet {
        printer::note(&format!("job {job} collects and analyses when they are over"));
    }
    Ok(())
}

/// Lists of tasks of one group each, small enough for an array: the group, the file, and how many.
fn write_lists(round: &Round, tasks: &[Submission], size: usize) -> Result<Vec<(usize, PathBuf, usize)>> {
    chunks(tasks, size)
        .into_iter()
        .enumerate()
        .map(|(number, (group, tasks))| Ok((group, round.write_list(number, &tasks)?, tasks.len())))
        .collect()
}

fn chunks(tasks: &[Submission], size: usize) -> Vec<(usize, Vec<usize>)> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for task in tasks {
        groups.entry(task.group).or_default().push(task.task);
    }
    groups
        .into_iter()
        .flat_map(|(group, tasks)| {
            tasks
                .chunks(size)
                .map(|chunk| (group, chunk.to_vec()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The id of the array that a task's job belongs to.
fn base_job(job: &str) -> &str {
    job.split_once('_').map_or(job, |(base, _)| base)
}

/// What a submission would write and run, and notes about it.
pub fn dry_run(
    directory: &SweepDirectory,
    sweep: &Sweep,
    tasks: &[Submission],
    options: &SubmitOptions,
) -> (String, Vec<String>) {
    let (size, notes) = match command::array_size() {
        Ok(size) => (size, Vec::new()),
        Err(error) => (
            DEFAULT_ARRAY_SIZE,
            vec![format!(
                "MaxArraySize is taken to be {DEFAULT_ARRAY_SIZE}, Slurm's default: {error:#}"
            )],
        ),
    };
    let round = Round {
        number: 1,
        path: directory.path().join("rounds/0001"),
    };
    // Writing to a string cannot fail.
    let mut text = String::new();
    let mut shown = None;
    let chunks = chunks(tasks, size);
    let throttled = options.throttle.or(sweep.slurm.throttle).is_some();
    for (number, (group, tasks)) in chunks.iter().enumerate() {
        let list = round.path.join(format!("{number:03}.tasks"));
        let after = if throttled && shown == Some(group) {
            " --dependency=afterany:JOB_BEFORE"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "$ sbatch --parsable{after} {}",
            list.with_extension("sh").display()
        );
        if shown != Some(group) {
            shown = Some(group);
            text += &script::array(directory, sweep, *group, &list, tasks.len(), options);
            text += "\n";
        }
    }
    let _ = writeln!(
        text,
        "$ sbatch --parsable --dependency=afterany:JOBS {}",
        round.path.join("collect.sh").display()
    );
    text += &script::collect(directory, sweep, &round, options);
    (text, notes)
}
