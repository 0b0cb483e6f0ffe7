//! This machine as an executor: some tasks at once, each a process of its own.

use std::{
    fs::OpenOptions,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use qbench_core::bounded;
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Submission, SubmitOptions, Sweep, SweepDirectory,
    executor::{Executor, Flight, JobState},
    round::{log_path, read_list},
};
use crate::{failure::usage, interrupt, printer, run::Progress};

/// Held while tasks run here; tells the process, its machine, and the round.
const LOCK_FILE: &str = ".local.lock";

/// This machine.
pub struct Local;

/// A task under way.
struct Running {
    child: Child,
    task: usize,
    /// Into the list.
    index: usize,
    /// Which of the GPUs it has.
    gpu: Option<usize>,
}

impl Executor for Local {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn submit(
        &self,
        directory: &SweepDirectory,
        sweep: &Sweep,
        tasks: &[Submission],
        options: &SubmitOptions,
    ) -> Result<()> {
        let Some(mut lock) = directory.lock(LOCK_FILE)? else {
            let who = owner(directory).map_or_else(String::new, |owner| {
                format!(" (process {} on {})", owner.process, owner.node)
            });
            return Err(usage(anyhow!(
                "tasks of {} are running already{who}",
                directory.path().display()
            )));
        };
        let round = directory.new_round()?;
        let list = round.write_list(0, &tasks.iter().map(|task| task.task).collect::<Vec<_>>())?;
        lock.set_len(0)?;
        write!(lock, "{} {} {}", std::process::id(), node(), list.display())?;
        if options.jobs.is_some_and(|jobs| jobs.get() > 1) && !options.quiet {
            printer::note(
                "warning: tasks at once share this machine and disturb each other's speeds; quality is not concerned",
            );
        }
        let mut progress = Progress::new(tasks.len(), options.quiet, "tasks");
        let result = run_all(directory, sweep, tasks, options, &list, &mut progress);
        progress.end();
        lock.set_len(0)?;
        result
    }

    fn flight(&self, directory: &SweepDirectory) -> Result<Flight> {
        let mut flight = Flight::default();
        if directory.lock(LOCK_FILE)?.is_some() {
            return Ok(flight);
        }
        // One that has only just taken the lock has not said yet what it runs.
        let Some(Owner { process, node, list }) = owner(directory) else {
            return Ok(flight);
        };
        for (index, task) in read_list(&list)?.into_iter().enumerate() {
            let started = log_path(&list, index).exists();
            let state = if started { "STARTED" } else { "WAITING" };
            let job = JobState {
                job: format!("process {process}"),
                state: state.to_owned(),
                reason: String::new(),
                node: node.clone(),
            };
            flight.under_way.insert(task, job);
        }
        Ok(flight)
    }

    fn cancel(&self, directory: &SweepDirectory) -> Result<Option<String>> {
        if directory.lock(LOCK_FILE)?.is_some() {
            return Ok(None);
        }
        let Owner {
            process, node: on, ..
        } = owner(directory).context("the process that runs the tasks has not said who it is yet")?;
        if on != node() {
            return Err(usage(anyhow!("the tasks run on {on}: cancel them there")));
        }
        let pid = Pid::from_raw(process).context("no process")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("stop process {process}"))?;
        Ok(Some(format!(
            "told process {process} to stop; what it finished is kept"
        )))
    }

    fn is_detached(&self) -> bool {
        false
    }
}

fn run_all(
    directory: &SweepDirectory,
    sweep: &Sweep,
    tasks: &[Submission],
    options: &SubmitOptions,
    list: &Path,
    progress: &mut Progress,
) -> Result<()> {
    let jobs = options.jobs.map_or(1, NonZeroUsize::get);
    // Without a list, tasks on a GPU run one at a time, on whichever they see.
    let gpus = options.gpus.len().max(1);
    let mut free: Vec<usize> = (0..gpus).rev().collect();
    let mut waiting: Vec<(usize, Submission)> = tasks.iter().copied().enumerate().rev().collect();
    let mut running: Vec<Running> = Vec::new();
    let mut told_to_stop = false;
    while !running.is_empty() || (!waiting.is_empty() && !told_to_stop) {
        if interrupt::pending().is_some() && !told_to_stop {
            told_to_stop = true;
            for task in &running {
                stop(&task.child);
            }
        }
        while !told_to_stop && running.len() < jobs {
            let fits = |(_, task): &(usize, Submission)| !task.on_gpu || !free.is_empty();
            let Some(place) = waiting.iter().rposition(fits) else {
                break;
            };
            let (index, task) = waiting.remove(place);
            let gpu = if task.on_gpu { free.pop() } else { None };
            let name = gpu.and_then(|gpu| options.gpus.get(gpu));
            let child = start(directory, sweep, task.task, &log_path(list, index), name)?;
            running.push(Running {
                child,
                task: task.task,
                index,
                gpu,
            });
            progress.start(&format!("task {}", task.task));
        }
        let mut ended = false;
        let mut still = Vec::new();
        for mut task in running {
            match task.child.try_wait()? {
                None => still.push(task),
                Some(status) => {
                    ended = true;
                    free.extend(task.gpu);
                    let log = log_path(list, task.index);
                    progress.finish(&if status.success() {
                        format!("task {}", task.task)
                    } else {
                        format!("task {}: {status}, see {}", task.task, log.display())
                    });
                }
            }
        }
        running = still;
        if !ended {
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn start(
    directory: &SweepDirectory,
    sweep: &Sweep,
    task: usize,
    log: &Path,
    gpu: Option<&String>,
) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new(&sweep.program);
    command
        .args(["sweep", "task", "--with-parent"])
        .arg(directory.path())
        .arg(task.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if let Some(gpu) = gpu {
        command.env("CUDA_VISIBLE_DEVICES", gpu);
    }
    command
        .spawn()
        .with_context(|| format!("start {}", sweep.program.display()))
}

fn stop(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails only when it has ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn node() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Who runs tasks.
struct Owner {
    process: i32,
    node: String,
    /// Of the tasks.
    list: PathBuf,
}

/// Who holds the lock, as it says itself.
fn owner(directory: &SweepDirectory) -> Option<Owner> {
    let text = bounded::read_text(&directory.path().join(LOCK_FILE), bounded::DESCRIPTION).ok()?;
    let mut words = text.splitn(3, ' ');
    Some(Owner {
        process: words.next()?.parse().ok()?,
        node: words.next()?.to_owned(),
        list: words.next()?.into(),
    })
}
