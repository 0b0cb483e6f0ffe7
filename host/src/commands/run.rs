//! `qbench run` and `qbench --plugin`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use qbench_core::{
    analysis::{AnalysisError, AnalysisOptions, analyze},
    results::{JOURNAL_FILE, Status},
};
use serde_json::json;

use super::analyze::{print_memory_table, print_summary};
use crate::{
    cli::{OutputArgs, RunArgs, precision_name},
    failure, interrupt,
    plugins::{Registry, SearchPath, check_options},
    printer,
    run::{Devices, OutDir, Plan, Schedule, Session, describe, is_file_name, outcome_text},
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
    let plan = Plan::resolve(arguments, &registry, Devices::Here)?;
    for scheme in plan.modes.iter().filter(|scheme| !scheme.options.is_empty()) {
        check_options(scheme)?;
    }
    let timestamp = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S").to_string();
    let (outdir, moved) = OutDir::open(&arguments.outdir, &plan, &timestamp)?;
    if !output.quiet {
        announce(&plan, &outdir, moved);
    }
    interrupt::install()?;
    let schedule = Schedule::new(&plan, &outdir.reference());
    let mut session = Session::new(&plan, schedule, outdir, arguments.force, output.quiet);
    session.run()?;
    report(&session, arguments.memory_table, output)
}

fn search(arguments: &RunArgs) -> SearchPath {
    let files = arguments.plugin.iter().filter(|text| is_file_name(text));
    arguments.plugin_dirs.search(files.map(PathBuf::from).collect())
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

/// The analysis, and the run's verdict.
fn report(session: &Session<'_>, memory_table: bool, output: &OutputArgs) -> Result<ExitCode> {
    let analysis = session.outdir.analysis();
    let summary = match analyze(session.outdir.path(), &analysis, AnalysisOptions::default()) {
        Ok(summary) => Some(summary),
        // The reasons were printed as they came, and are in the table.
        Err(AnalysisError::NothingSucceeded { .. }) => None,
        Err(AnalysisError::NoResults { .. }) if interrupt::pending().is_some() => None,
        Err(error) => return Err(error.into()),
    };
    if output.json {
        printer::json(&json!({
            "schema": "qbench.run/1",
            "outdir": session.outdir.path(),
            "failed": session.failed,
            "cells": session.records,
            "files": summary.as_ref().map(|summary| &summary.files),
            "warnings": summary.as_ref().map(|summary| &summary.warnings),
        }))?;
    } else if let Some(summary) = &summary {
        if memory_table {
            print_memory_table(summary);
        }
        print_summary(summary, output);
        printer::out(&format!(
            "tables, figures and the report are in {}",
            analysis.display()
        ));
    }
    if let Some(signal) = interrupt::pending() {
        printer::note(&format!(
            "stopped by signal {signal}; {} finished cells are kept: the same command goes on from there",
            session.records.len()
        ));
        // As shells say it.
        return Ok(ExitCode::from(128 + signal));
    }
    if session.failed == 0 {
        return Ok(ExitCode::from(failure::OK));
    }
    let first = session.records.iter().find(|record| record.status != Status::Ok);
    printer::note(&format!(
        "{} of {} cells failed or are invalid; the first: {}; all reasons are in {}",
        session.failed,
        session.records.len(),
        first.map_or_else(String::new, |record| format!(
            "{}: {}",
            describe(&record.cell),
            outcome_text(record)
        )),
        session.outdir.path().join(JOURNAL_FILE).display()
    ));
    Ok(ExitCode::from(failure::VERDICT))
}
