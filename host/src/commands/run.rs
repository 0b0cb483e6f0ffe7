//! `qbench run` and `qbench --plugin`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use qbench_core::{
    analysis::{AnalysisError, AnalysisOptions, analyze},
    results::{Cell, CellKind, JOURNAL_FILE, PluginUse, Quality, RECORD_SCHEMA, Record, Status},
};
use serde_json::json;

use super::analyze::print_summary;
use crate::{
    child::{self, ChildFailure, Verb},
    cli::{OutputArgs, RunArgs, precision_name},
    failure,
    plugins::{Registry, SearchPath, check_options},
    printer,
    run::{OutDir, Plan, PlannedCell, Progress, QualityGroup, Schedule, is_file_name, quality_cell},
    worker::{CellJob, CellOutcome},
};

pub(super) fn run(arguments: &RunArgs, output: &OutputArgs) -> Result<ExitCode> {
    let registry = Registry::discover(&search(arguments), true)?;
    if !output.quiet {
        for refused in &registry.refused {
            printer::note(&format!(
                "plugin {} is left out: {}",
                refused.path.display(),
                refused.reason
            ));
        }
    }
    let plan = Plan::resolve(arguments, &registry)?;
    for scheme in plan.modes.iter().filter(|scheme| !scheme.options.is_empty()) {
        check_options(scheme)?;
    }
    let timestamp = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S").to_string();
    let (outdir, moved) = OutDir::open(&arguments.outdir, &plan, &timestamp)?;
    if !output.quiet {
        announce(&plan, &outdir, moved);
    }
    let mut session = Session::new(&plan, outdir, output);
    session.run()?;
    session.report(output)
}

fn search(arguments: &RunArgs) -> SearchPath {
    SearchPath {
        files: arguments
            .plugin
            .iter()
            .filter(|text| is_file_name(text))
            .map(PathBuf::from)
            .collect(),
        directories: arguments.plugin_dirs.plugin_dir.clone(),
    }
}

fn announce(plan: &Plan, outdir: &OutDir, moved: Option<PathBuf>) {
    let configuration = &plan.configuration;
    let modes: Vec<&str> = plan.modes.iter().map(|scheme| scheme.mode.as_str()).collect();
    printer::note(&format!(
        "model    {} ({})",
        configuration.model_label, configuration.model
    ));
    let subset = match configuration.data.per_genome {
        Some(count) => format!(", the first {count} fragments of each genome"),
        None => String::new(),
    };
    if !configuration.synthetic {
        printer::note(&format!(
            "data     {}: {} sequences{subset}",
            configuration.data.path.display(),
            configuration.sequences
        ));
    }
    printer::note(&format!(
        "runs on  {} {} ({}), {}, {} threads",
        configuration.backend.info.id,
        configuration.device.id,
        configuration.device.name,
        precision_name(configuration.precision),
        configuration.threads
    ));
    printer::note(&format!("modes    {}", modes.join(" ")));
    printer::note(&format!("results  {}", outdir.path().display()));
    if let Some(moved) = moved {
        printer::note(&format!(
            "earlier results of another configuration were moved to {}",
            moved.display()
        ));
    }
}

/// A run under way.
struct Session<'a> {
    plan: &'a Plan,
    outdir: OutDir,
    schedule: Schedule,
    progress: Progress,
    failed: usize,
    records: Vec<Record>,
}

impl<'a> Session<'a> {
    fn new(plan: &'a Plan, outdir: OutDir, output: &OutputArgs) -> Self {
        let schedule = Schedule::new(plan, &outdir.reference());
        let progress = Progress::new(schedule.len(), output.quiet, "cells");
        Self {
            plan,
            outdir,
            schedule,
            progress,
            failed: 0,
            records: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<()> {
        let schedule = std::mem::take(&mut self.schedule);
        for planned in &schedule.performance {
            self.cell(planned)?;
        }
        for group in &schedule.quality {
            self.quality(group)?;
        }
        if self.plan.configuration.synthetic && self.plan.evaluate_quality {
            self.note_synthetic()?;
        }
        self.progress.end();
        Ok(())
    }

    fn cell(&mut self, planned: &PlannedCell) -> Result<()> {
        self.progress.start(&describe(&planned.cell));
        let outcome = child::run::<_, CellOutcome>(Verb::Cell, &planned.job, None);
        self.keep(&planned.cell, &planned.job, outcome)
    }

    /// The reference of a condition, then every mode; without a reference, the modes fail with its reason.
    fn quality(&mut self, group: &QualityGroup) -> Result<()> {
        fs::create_dir_all(&group.directory)
            .with_context(|| format!("create {}", group.directory.display()))?;
        self.progress
            .start(&format!("reference (float32 standard), {}", group.condition));
        let made = child::run::<_, CellOutcome>(Verb::Cell, &group.reference, None);
        self.progress.finish(&match &made {
            Ok(_) => format!("reference (float32 standard), {}: ok", group.condition),
            Err(failure) => format!("reference, {}: {}", group.condition, failure.reason),
        });
        for planned in &group.modes {
            match &made {
                Ok(_) => self.cell(planned)?,
                Err(failure) => {
                    let reason = format!("the reference failed: {}", failure.reason);
                    let failure = ChildFailure {
                        reason,
                        ..failure.clone()
                    };
                    self.keep(&planned.cell, &planned.job, Err(failure))?;
                }
            }
        }
        if !self.plan.keep_reference {
            let directory = self.outdir.reference();
            fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        Ok(())
    }

    /// A synthetic model has no meaning that quantisation could change: its quality rows are there and empty.
    fn note_synthetic(&mut self) -> Result<()> {
        for scheme in &self.plan.modes {
            for condition in &self.plan.conditions {
                let mut record = record(quality_cell(self.plan, scheme, condition), Vec::new());
                record.quality = Some(Quality {
                    reason: "synthetic".to_owned(),
                    ..Quality::default()
                });
                self.outdir.keep(&record)?;
                self.records.push(record);
            }
        }
        Ok(())
    }

    fn keep(&mut self, cell: &Cell, job: &CellJob, outcome: Result<CellOutcome, ChildFailure>) -> Result<()> {
        let mut record = record(cell.clone(), plugins_of(job));
        match outcome {
            Ok(outcome) => {
                record.execution = outcome.execution;
                record.warnings = outcome.warnings;
                record.performance = outcome.performance;
                record.quality = outcome.quality;
            }
            Err(failure) => {
                record.status = failure.status;
                record.reason = failure.reason;
                self.failed += 1;
            }
        }
        self.outdir.keep(&record)?;
        self.progress
            .finish(&format!("{}: {}", describe(cell), outcome_text(&record)));
        self.say_how_many_were_cut(&record);
        self.records.push(record);
        Ok(())
    }

    /// Says once a condition how many sequences lost tokens to the limit.
    fn say_how_many_were_cut(&self, record: &Record) {
        let condition = &record.cell.condition;
        let known = |earlier: &Record| earlier.cell.condition == *condition && earlier.performance.is_some();
        if let Some(performance) = &record.performance
            && performance.truncated_sequences > 0
            && !self.records.iter().any(known)
        {
            self.progress.line(&format!(
                "{condition}: {} sequences were longer than the limit of tokens and were cut",
                performance.truncated_sequences
            ));
        }
    }

    /// The analysis, and the run's verdict.
    fn report(self, output: &OutputArgs) -> Result<ExitCode> {
        let analysis = self.outdir.analysis();
        let summary = match analyze(self.outdir.path(), &analysis, AnalysisOptions::default()) {
            Ok(summary) => Some(summary),
            // The reasons were printed as they came, and are in the table.
            Err(AnalysisError::NothingSucceeded { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if output.json {
            printer::json(&json!({
                "schema": "qbench.run/1",
                "outdir": self.outdir.path(),
                "failed": self.failed,
                "cells": self.records,
                "files": summary.as_ref().map(|summary| &summary.files),
                "warnings": summary.as_ref().map(|summary| &summary.warnings),
            }))?;
        } else if let Some(summary) = &summary {
            print_summary(summary, output);
            printer::out(&format!(
                "tables, figures and the report are in {}",
                analysis.display()
            ));
        }
        if self.failed == 0 {
            return Ok(ExitCode::from(failure::OK));
        }
        let first = self.records.iter().find(|record| record.status != Status::Ok);
        printer::note(&format!(
            "{} of {} cells failed; the first: {}; all reasons are in {}",
            self.failed,
            self.records.len(),
            first.map_or_else(String::new, |record| format!(
                "{}: {}",
                describe(&record.cell),
                outcome_text(record)
            )),
            self.outdir.path().join(JOURNAL_FILE).display()
        ));
        Ok(ExitCode::from(failure::VERDICT))
    }
}

fn record(cell: Cell, plugins: Vec<PluginUse>) -> Record {
    Record {
        schema: RECORD_SCHEMA.to_owned(),
        cell,
        status: Status::Ok,
        reason: String::new(),
        plugins,
        execution: Vec::new(),
        warnings: Vec::new(),
        performance: None,
        quality: None,
    }
}

fn plugins_of(job: &CellJob) -> Vec<PluginUse> {
    let (scheme, backend) = (&job.scheme, &job.backend);
    vec![
        PluginUse {
            id: scheme.id.clone(),
            path: scheme.path.clone(),
            sha256: scheme.sha256.clone(),
        },
        PluginUse {
            id: backend.info.id.clone(),
            path: backend.path.clone(),
            sha256: backend.sha256.clone(),
        },
    ]
}

fn describe(cell: &Cell) -> String {
    match cell.kind {
        CellKind::Performance => format!(
            "{}, {}, batch size {}, repeat {}",
            cell.mode,
            cell.condition,
            cell.batch_size,
            cell.repeat + 1
        ),
        CellKind::Quality => format!("{}, {}, quality", cell.mode, cell.condition),
    }
}

fn outcome_text(record: &Record) -> String {
    if record.status != Status::Ok {
        return format!("{}: {}", record.status.as_str(), record.reason);
    }
    if let Some(performance) = &record.performance {
        let seconds: f64 = performance.batch_seconds.iter().sum();
        return format!("{:.0} tokens/s", performance.tokens as f64 / seconds);
    }
    let tokens = record
        .quality
        .as_ref()
        .and_then(|quality| quality.tokens_level.as_ref());
    tokens.map_or_else(
        || "ok".to_owned(),
        |tokens| {
            format!(
                "KL {:.3e} nats, perplexity {:.2}",
                tokens.kl_mean, tokens.perplexity
            )
        },
    )
}
