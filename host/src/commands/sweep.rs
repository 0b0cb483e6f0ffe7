//! `qbench sweep`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use qbench_core::{bounded, results::JOURNAL_FILE};
use serde_json::json;

use super::analyze::print_summary;
use crate::{
    cli::{OutputArgs, SweepArgs, SweepCommand, SweepStartArgs, SweepSubmitArgs},
    failure::{self, usage},
    interrupt, printer,
    sweep::{
        Collection, Draft, DraftOptions, ExecutorKind, Submission, SubmitOptions, Sweep, SweepDirectory,
        SweepEstimate, SweepStatus, UNFINISHED_FILE, cancel, collect, dry_run, estimate, executor, last_logs,
        run_task,
    },
};

/// Runs as it stands on any cluster.
const SCRIPT: &str = include_str!("../../../examples/slurm/run_quantization_benchmark.sh");

/// A queue that does not list a job is asked again after this long before that is believed.
const SECOND_LOOK: Duration = Duration::from_secs(1);

pub(super) fn sweep(arguments: SweepArgs, output: &OutputArgs) -> Result<ExitCode> {
    match arguments.command {
        None => start(&arguments.start, output),
        Some(SweepCommand::Status(sweep)) => status(&sweep.dir, output),
        Some(SweepCommand::Watch { sweep, interval }) => watch(&sweep.dir, interval, output),
        Some(SweepCommand::Logs { sweep, task, lines }) => logs(&sweep.dir, task, lines),
        Some(SweepCommand::Cancel(sweep)) => stop(&sweep.dir),
        Some(SweepCommand::Resume {
            sweep,
            executor,
            submit,
        }) => resume(&sweep.dir, executor, &submit, output),
        Some(SweepCommand::Collect {
            sweep,
            outdir,
            no_analysis,
        }) => {
            let directory = SweepDirectory::open(&sweep.dir)?;
            let results = outdir.unwrap_or_else(|| directory.results());
            let collection = collect(&directory, &results, !no_analysis)?;
            print_collection(&collection, output)
        }
        Some(SweepCommand::Script) => {
            printer::out(SCRIPT.trim_end());
            Ok(ExitCode::from(failure::OK))
        }
        Some(SweepCommand::Task {
            dir,
            number,
            with_parent,
        }) => {
            if with_parent {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
            }
            run_task(&SweepDirectory::open(&dir)?, number, output.quiet)
        }
    }
}

fn start(arguments: &SweepStartArgs, output: &OutputArgs) -> Result<ExitCode> {
    let plan = arguments.plan.as_deref().context("clap asks for a plan")?;
    let options = submit_options(&arguments.submit, arguments.executor, output)?;
    let draft = Draft::resolve(
        plan,
        DraftOptions {
            executor: arguments.executor,
            jobs: options.jobs.map_or(1, std::num::NonZeroUsize::get),
            cells_per_task: arguments.cells_per_task,
        },
    )?;
    for warning in draft.warnings.iter().filter(|_| !output.quiet) {
        printer::note(&format!("warning: {warning}"));
    }
    let path = arguments
        .outdir
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("sweep-{}", draft.sweep.name)));
    if arguments.dry_run {
        return show_draft(&draft, &path, &options, output);
    }
    executor(arguments.executor).check()?;
    let directory = draft.write(&path)?;
    let lock = submit_lock(&directory)?;
    let sweep = &draft.sweep;
    if !output.quiet {
        printer::note(&format!(
            "sweep    {} ({}): {} cells in {} tasks",
            sweep.name, sweep.id, sweep.cells, sweep.tasks
        ));
        printer::note(&format!("in       {}", directory.path().display()));
    }
    let tasks = submissions(&draft);
    submit(&directory, lock, arguments.executor, &tasks, &options, output)
}

fn submissions(draft: &Draft) -> Vec<Submission> {
    draft
        .tasks
        .iter()
        .map(|task| Submission {
            task: task.task,
            group: task.group,
            on_gpu: !task.cells[0].device.starts_with("cpu"),
        })
        .collect()
}

/// Only one process submits tasks of a sweep at a time, or tasks that are about to be submitted would look as if they had
/// stopped.
fn submit_lock(directory: &SweepDirectory) -> Result<fs::File> {
    directory.lock(".submit.lock")?.ok_or_else(|| {
        usage(anyhow!(
            "another `qbench sweep` is at work on {}: wait for it, or `qbench sweep cancel` it",
            directory.path().display()
        ))
    })
}

/// The options for an executor of this kind.
///
/// # Errors
/// Some are for the other kind only.
fn submit_options(
    arguments: &SweepSubmitArgs,
    kind: ExecutorKind,
    output: &OutputArgs,
) -> Result<SubmitOptions> {
    let (of_the_other, other) = match kind {
        ExecutorKind::Local => (
            [
                ("--throttle", arguments.throttle.is_some()),
                ("--sbatch", !arguments.sbatch.is_empty()),
            ],
            "slurm",
        ),
        ExecutorKind::Slurm => (
            [
                ("--jobs", arguments.jobs.is_some()),
                ("--gpus", !arguments.gpus.is_empty()),
            ],
            "local",
        ),
    };
    if let Some((name, _)) = of_the_other.iter().find(|(_, given)| *given) {
        return Err(usage(anyhow!("{name} is an option for --executor {other} only")));
    }
    Ok(SubmitOptions {
        jobs: arguments.jobs,
        gpus: arguments.gpus.clone(),
        throttle: arguments.throttle,
        sbatch: arguments.sbatch.clone(),
        quiet: output.quiet,
    })
}

/// Submits tasks; where they are over then, merges them.
fn submit(
    directory: &SweepDirectory,
    lock: fs::File,
    kind: ExecutorKind,
    tasks: &[Submission],
    options: &SubmitOptions,
    output: &OutputArgs,
) -> Result<ExitCode> {
    let (executor, sweep) = (executor(kind), directory.sweep()?);
    let shown = directory.path().display();
    if executor.is_detached() {
        executor.submit(directory, &sweep, tasks, options)?;
        if !output.quiet {
            printer::note(&format!("`qbench sweep status {shown}` tells how far it is"));
        }
        return Ok(ExitCode::from(failure::OK));
    }
    // They run under a lock of their own, and others may look.
    drop(lock);
    interrupt::install()?;
    executor.submit(directory, &sweep, tasks, options)?;
    if let Some(signal) = interrupt::pending() {
        printer::note(&format!(
            "stopped by signal {signal}; finished cells are kept: `qbench sweep resume {shown}` goes on"
        ));
        return Ok(ExitCode::from(128 + signal));
    }
    let collection = collect(directory, &directory.results(), true)?;
    print_collection(&collection, output)
}

fn show_draft(draft: &Draft, path: &Path, options: &SubmitOptions, output: &OutputArgs) -> Result<ExitCode> {
    let needs = estimate(draft)?;
    let sweep = &draft.sweep;
    if output.json {
        printer::json(&json!({
            "schema": "qbench.sweep-dry-run/1",
            "cells": draft.tasks.iter().flat_map(|task| &task.cells).collect::<Vec<_>>(),
            "tasks": sweep.tasks,
            "runs": draft.configurations.iter().map(|run| &run.arguments).collect::<Vec<_>>(),
            "estimated_seconds": needs.seconds,
            "estimated_longest_task_seconds": needs.longest_task_seconds,
            "estimated_memory_bytes": needs.bytes,
            "estimated_from": SweepEstimate::basis(),
        }))?;
        return Ok(ExitCode::from(failure::OK));
    }
    for task in &draft.tasks {
        printer::out(&format!("task {}", task.task));
        for cell in &task.cells {
            printer::out(&format!(
                "  {}, {} {}, {}: {}",
                cell.model,
                cell.backend,
                cell.device,
                cell.precision,
                crate::run::describe(cell)
            ));
        }
    }
    printer::out(&format!("{} cells in {} tasks", sweep.cells, sweep.tasks));
    printer::out(&format!(
        "estimated: {} of tasks one after the other, the longest {}, {:.1} GB of memory a task",
        duration(needs.seconds),
        duration(needs.longest_task_seconds),
        needs.bytes / 1e9
    ));
    printer::out(&format!("  ({})", SweepEstimate::basis()));
    if sweep.executor == ExecutorKind::Slurm {
        let directory = SweepDirectory::planned(path)?;
        let (text, notes) = dry_run(&directory, sweep, &submissions(draft), options);
        for note in &notes {
            printer::note(note);
        }
        printer::out(text.trim_end());
    }
    Ok(ExitCode::from(failure::OK))
}

fn duration(seconds: f64) -> String {
    let mut text = String::new();
    let (hours, minutes) = ((seconds / 3600.0) as u64, (seconds / 60.0) as u64 % 60);
    // Writing to a string cannot fail.
    let _ = match (hours, minutes) {
        (0, 0) => write!(text, "{seconds:.0} s"),
        (0, _) => write!(text, "{minutes} min"),
        _ => write!(text, "{hours} h {minutes} min"),
    };
    text
}

fn read(path: &Path) -> Result<(SweepDirectory, Sweep)> {
    let directory = SweepDirectory::open(path)?;
    let sweep = directory.sweep()?;
    Ok((directory, sweep))
}

fn status(path: &Path, output: &OutputArgs) -> Result<ExitCode> {
    let (directory, sweep) = read(path)?;
    let status = SweepStatus::read(&directory)?;
    print_status(&directory, &status, &sweep, output)?;
    Ok(verdict(&status))
}

fn print_status(
    directory: &SweepDirectory,
    status: &SweepStatus,
    sweep: &Sweep,
    output: &OutputArgs,
) -> Result<()> {
    print_counts(status, sweep, output)?;
    if output.quiet {
        return Ok(());
    }
    let shown = directory.path().display();
    if status.tasks.stopped > 0 && status.unknown.is_none() {
        printer::note(&format!(
            "`qbench sweep resume {shown}` runs what is missing, `qbench sweep logs {shown}` shows what tasks said"
        ));
    } else if status.is_complete() && !status.is_under_way() {
        printer::note(&match merged(directory) {
            Some(results) => format!("merged into {}", results.display()),
            None => format!("not merged yet: `qbench sweep collect {shown}` does that"),
        });
    }
    Ok(())
}

fn print_counts(status: &SweepStatus, sweep: &Sweep, output: &OutputArgs) -> Result<()> {
    if output.json {
        printer::json(&json!({
            "schema": "qbench.sweep-status/1",
            "sweep": sweep,
            "status": status,
        }))?;
    } else {
        for line in status.lines(sweep) {
            printer::out(&line);
        }
    }
    if !output.quiet {
        for warning in &status.warnings {
            printer::note(&format!("warning: {warning}"));
        }
    }
    Ok(())
}

/// The results directory, where it holds every cell.
fn merged(directory: &SweepDirectory) -> Option<PathBuf> {
    let results = directory.results();
    (results.join(JOURNAL_FILE).exists() && !results.join(UNFINISHED_FILE).exists()).then_some(results)
}

/// No, when something has stopped short.
fn verdict(status: &SweepStatus) -> ExitCode {
    let stopped = status.tasks.stopped > 0 && status.unknown.is_none();
    ExitCode::from(if stopped { failure::VERDICT } else { failure::OK })
}

fn watch(path: &Path, interval: f64, output: &OutputArgs) -> Result<ExitCode> {
    let (directory, sweep) = read(path)?;
    interrupt::install()?;
    loop {
        let status = SweepStatus::read(&directory)?;
        print_status(&directory, &status, &sweep, output)?;
        if !status.is_under_way() {
            return Ok(verdict(&status));
        }
        let started = Instant::now();
        while started.elapsed().as_secs_f64() < interval {
            if let Some(signal) = interrupt::pending() {
                return Ok(ExitCode::from(128 + signal));
            }
            thread::sleep(Duration::from_millis(50));
        }
        printer::out("");
    }
}

fn logs(path: &Path, tasks: Vec<usize>, lines: usize) -> Result<ExitCode> {
    /// More tasks than this are counted only.
    const NAMED: usize = 20;
    /// Bytes of a log that its last lines are looked for in.
    const LOG_END: u64 = 4 << 20;
    let (directory, sweep) = read(path)?;
    if let Some(task) = tasks.iter().find(|&&task| task >= sweep.tasks) {
        return Err(usage(anyhow!(
            "{} has no task {task}: its tasks are 0 to {}",
            directory.path().display(),
            sweep.tasks - 1
        )));
    }
    let mut more = 0;
    let tasks = if tasks.is_empty() {
        let status = SweepStatus::read(&directory)?;
        more = status.unfinished.len().saturating_sub(NAMED);
        let unfinished = status.unfinished.iter().take(NAMED);
        unfinished.map(|task| task.task).collect()
    } else {
        tasks
    };
    let logs = last_logs(&directory, &tasks)?;
    for task in tasks {
        let Some(log) = logs.get(&task) else {
            printer::out(&format!("==> task {task}: no log yet <=="));
            continue;
        };
        printer::out(&format!("==> task {task}: {} <==", log.display()));
        let bytes = bounded::read_end(log, LOG_END).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        for line in &all[all.len().saturating_sub(lines)..] {
            printer::out(line);
        }
    }
    if more > 0 {
        printer::note(&format!("{more} more tasks are not finished: --task names one"));
    }
    Ok(ExitCode::from(failure::OK))
}

fn stop(path: &Path) -> Result<ExitCode> {
    let done = cancel(&SweepDirectory::open(path)?)?;
    for line in &done {
        printer::out(line);
    }
    if done.is_empty() {
        printer::out("nothing is under way");
    }
    Ok(ExitCode::from(failure::OK))
}

fn resume(
    path: &Path,
    kind: Option<ExecutorKind>,
    arguments: &SweepSubmitArgs,
    output: &OutputArgs,
) -> Result<ExitCode> {
    let (directory, sweep) = read(path)?;
    let kind = kind.unwrap_or(sweep.executor);
    let options = submit_options(arguments, kind, output)?;
    let lock = submit_lock(&directory)?;
    let mut status = SweepStatus::read(&directory)?;
    if status.in_queue.is_some() && status.tasks.stopped > 0 {
        thread::sleep(SECOND_LOOK);
        status = SweepStatus::read(&directory)?;
    }
    if let Some(reason) = &status.unknown {
        return Err(usage(anyhow!(
            "whether tasks are still under way is unknown, nothing was submitted: {reason}; try again later"
        )));
    }
    print_counts(&status, &sweep, output)?;
    let tasks = status.to_submit();
    if tasks.is_empty() {
        if status.is_under_way() {
            if status.lacks_collector() {
                // Whoever submitted the tasks did not come so far.
                printer::note("all that is left is under way");
                return submit(&directory, lock, kind, &tasks, &options, output);
            }
            printer::note("all that is left is under way: nothing was submitted");
            return Ok(ExitCode::from(failure::OK));
        }
        let collection = collect(&directory, &directory.results(), true)?;
        return print_collection(&collection, output);
    }
    submit(&directory, lock, kind, &tasks, &options, output)
}

fn print_collection(collection: &Collection, output: &OutputArgs) -> Result<ExitCode> {
    let merged = &collection.merged;
    let warnings = merged.all_warnings();
    let complete = merged.unfinished.is_empty();
    if output.json {
        printer::json(&json!({
            "schema": "qbench.sweep-collection/1",
            "results": collection.results,
            "cells": merged.expected,
            "done": merged.done,
            "missing": merged.missing(),
            "measured_again": merged.repeated,
            "warnings": warnings,
            "files": collection.analysis.as_ref().map(|summary| &summary.files),
        }))?;
    } else {
        if let Some(summary) = &collection.analysis {
            print_summary(summary, output);
        }
        printer::out(&format!(
            "{} of {} cells have numbers; merged into {}",
            merged.done,
            merged.expected,
            collection.results.display()
        ));
    }
    if !output.quiet {
        for warning in &warnings {
            printer::note(&format!("warning: {warning}"));
        }
        if merged.repeated > 0 {
            printer::note(&format!(
                "{} cells were measured by more than one attempt: the first counts",
                merged.repeated
            ));
        }
    }
    for line in collection.lacking() {
        printer::note(&line);
    }
    Ok(ExitCode::from(if complete {
        failure::OK
    } else {
        failure::VERDICT
    }))
}
