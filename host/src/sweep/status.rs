//! How far a sweep has come: what its files say, and what the executor adds.

use anyhow::Result;
use qbench_core::sweep::CellState;
use serde::Serialize;

use super::{
    Submission, Sweep, SweepDirectory,
    executor::{self, Flight, JobState},
};
use crate::failure::usage;

/// How far a sweep has come.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SweepStatus {
    pub cells: CellCounts,
    pub tasks: TaskCounts,
    /// Tasks that are not finished.
    pub unfinished: Vec<TaskState>,
    pub collecting: Option<JobState>,
    /// Why the executor could not be asked.
    pub unknown: Option<String>,
    /// See `Flight`.
    #[serde(skip)]
    pub in_queue: Option<usize>,
    /// Doubts about the files.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CellCounts {
    pub done: usize,
    pub failed: usize,
    pub missing: usize,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TaskCounts {
    pub done: usize,
    pub running: usize,
    pub waiting: usize,
    /// Neither finished nor under way: `resume` submits these.
    pub stopped: usize,
}

/// A task that is not finished.
#[derive(Clone, Debug, Serialize)]
pub struct TaskState {
    pub task: usize,
    pub group: usize,
    pub cells: usize,
    pub done: usize,
    pub failed: usize,
    /// Why the last cell that failed did.
    pub reason: String,
    pub on_gpu: bool,
    /// Its job that is under way.
    pub job: Option<JobState>,
    /// Its last job that ended, as far as the executor remembers.
    pub ended: Option<JobState>,
}

impl SweepStatus {
    /// Reads all results, and asks who runs tasks.
    ///
    /// # Errors
    /// Files that cannot be read. An executor that cannot be asked is no error.
    pub fn read(directory: &SweepDirectory) -> Result<Self> {
        // Asked first: a task that ends in between has its results then.
        let Flight {
            mut under_way,
            mut ended,
            collecting,
            unknown,
            in_queue,
        } = executor::flight(directory)?;
        let mut status = Self {
            collecting,
            unknown,
            in_queue,
            ..Self::default()
        };
        for (files, line) in directory.task_files()?.zip(directory.tasks()?) {
            let (files, line) = (files.map_err(usage)?, line?);
            let outcome = files.outcome().map_err(usage)?;
            status.warnings.extend(outcome.warnings);
            let mut reason = String::new();
            let (mut done, mut failed) = (0, 0);
            for state in outcome.cells {
                match state {
                    CellState::Done => done += 1,
                    CellState::Failed(status, why) => {
                        failed += 1;
                        reason = format!("{}: {why}", status.as_str());
                    }
                    CellState::Missing => {}
                }
            }
            let cells = line.cells.len();
            status.cells.done += done;
            status.cells.failed += failed;
            status.cells.missing += cells - done - failed;
            let job = under_way.remove(&line.task);
            if done == cells {
                status.tasks.done += 1;
                continue;
            }
            match &job {
                Some(job) if job.state == "PENDING" || job.state == "WAITING" => status.tasks.waiting += 1,
                Some(_) => status.tasks.running += 1,
                None => status.tasks.stopped += 1,
            }
            status.unfinished.push(TaskState {
                task: line.task,
                group: line.group,
                cells,
                done,
                failed,
                reason,
                on_gpu: !line.cells[0].device.starts_with("cpu"),
                job,
                ended: ended.remove(&line.task),
            });
        }
        Ok(status)
    }

    /// Whether every cell has numbers.
    pub fn is_complete(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// Whether something is waiting or running, or may be.
    pub fn is_under_way(&self) -> bool {
        self.tasks.running + self.tasks.waiting > 0 || self.collecting.is_some() || self.unknown.is_some()
    }

    /// Whether a cluster runs tasks, and no job waits to merge them.
    pub fn lacks_collector(&self) -> bool {
        self.collecting.is_none() && self.in_queue.is_some_and(|tasks| tasks > 0)
    }

    /// Tasks that are neither finished nor under way.
    pub fn to_submit(&self) -> Vec<Submission> {
        let stopped = self.unfinished.iter().filter(|task| task.job.is_none());
        stopped
            .map(|task| Submission {
                task: task.task,
                group: task.group,
                on_gpu: task.on_gpu,
            })
            .collect()
    }

    /// The status in lines for people.
    pub fn lines(&self, sweep: &Sweep) -> Vec<String> {
        /// More tasks than this are counted only.
        const NAMED: usize = 20;
        let (cells, tasks) = (&self.cells, &self.tasks);
        let mut lines = vec![
            format!(
                "sweep {} ({}), {} cells in {} tasks",
                sweep.name, sweep.id, sweep.cells, sweep.tasks
            ),
            format!(
                "cells  {} done, {} failed, {} missing",
                cells.done, cells.failed, cells.missing
            ),
        ];
        lines.push(match &self.unknown {
            Some(reason) => format!(
                "tasks  {} done; whether the other {} are under way is unknown: {reason}",
                tasks.done,
                self.unfinished.len()
            ),
            None => format!(
                "tasks  {} done, {} running, {} waiting, {} stopped",
                tasks.done, tasks.running, tasks.waiting, tasks.stopped
            ),
        });
        if let Some(job) = &self.collecting {
            lines.push(format!("collect {}", words(job)));
        }
        for task in self.unfinished.iter().take(NAMED) {
            let state = match (&task.job, &task.ended) {
                (Some(job), _) => words(job),
                (None, Some(job)) => format!("its last job ended: {}", words(job)),
                (None, None) if self.unknown.is_some() => "unknown".to_owned(),
                (None, None) => "stopped".to_owned(),
            };
            let failed = match task.failed {
                0 => String::new(),
                failed => format!("; {failed} failed: {}", task.reason),
            };
            lines.push(format!(
                "task {}: {} of {} cells; {state}{failed}",
                task.task, task.done, task.cells
            ));
        }
        if self.unfinished.len() > NAMED {
            lines.push(format!("and {} more tasks", self.unfinished.len() - NAMED));
        }
        lines
    }
}

fn words(job: &JobState) -> String {
    let node = if job.node.is_empty() {
        String::new()
    } else {
        format!(" on {}", job.node)
    };
    let reason = if job.reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", job.reason)
    };
    format!("{} {}{node}{reason}", job.job, job.state)
}
