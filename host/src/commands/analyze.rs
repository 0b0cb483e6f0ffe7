//! `qbench analyze`.

use std::{io::stdout, process::ExitCode};

use anyhow::Result;
use qbench_core::analysis::{AnalysisOptions, AnalysisSummary, analyze as analyze_results};
use serde_json::json;

use crate::{
    cli::{AnalyzeArgs, OutputArgs},
    failure::usage,
    printer,
};

pub(super) fn analyze(arguments: &AnalyzeArgs, output: &OutputArgs) -> Result<ExitCode> {
    let output_dir = arguments
        .output_dir
        .clone()
        .unwrap_or_else(|| arguments.results_dir.join("analysis"));
    let options = AnalysisOptions {
        skip_quality: arguments.skip_quality,
    };
    let summary = analyze_results(&arguments.results_dir, &output_dir, options).map_err(usage)?;
    if output.json {
        printer::json(&json!({
            "schema": "qbench.analysis/1",
            "output_dir": output_dir,
            "files": summary.files,
            "warnings": summary.warnings,
        }))?;
    } else {
        if arguments.memory_table {
            print_memory_table(&summary);
        }
        print_summary(&summary, output);
        printer::out(&format!(
            "{} files in {}",
            summary.files.len(),
            output_dir.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Every weight, on standard output.
pub(super) fn print_memory_table(summary: &AnalysisSummary) {
    if summary.memory_table.is_empty() {
        printer::note("no cell recorded its weights: there is no memory table");
    } else {
        printer::out(&summary.memory_table);
    }
}

/// The main numbers on standard output, modes with cells that failed or are invalid in red; doubts on standard error.
pub(super) fn print_summary(summary: &AnalysisSummary, output: &OutputArgs) {
    for line in summary.overview.lines() {
        let mode = line.trim_start().split("  ").next().unwrap_or_default();
        if summary.faulty_modes.iter().any(|faulty| faulty == mode) {
            printer::out(&printer::red(line, &stdout()));
        } else {
            printer::out(line);
        }
    }
    if !output.quiet {
        for warning in &summary.warnings {
            printer::note(&format!("warning: {warning}"));
        }
    }
}
