//! `qbench compare`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use qbench_core::{
    compare::{Comparison, Measured, QualityMargins, QualityVerdict, markdown, text},
    statistics::{Effect, Question},
};
use serde::Serialize;

use crate::{
    cli::{CompareArgs, CompareFormat, FailOn, OutputArgs},
    failure::{VERDICT, usage},
    printer,
};

/// The comparison as it is printed.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

pub(super) fn compare(arguments: &CompareArgs, output: &OutputArgs) -> Result<ExitCode> {
    let question = Question {
        margin: arguments.margin,
        alpha: arguments.alpha,
    };
    let margins = QualityMargins {
        kl: arguments.kl_margin,
        perplexity: arguments.perplexity_margin,
    };
    let read = |path: &Path| {
        Measured::read(path)
            .and_then(|measured| measured.across(&arguments.across))
            .map_err(usage)
    };
    let (a, b) = (read(&arguments.a)?, read(&arguments.b)?);
    let comparison = Comparison::of(a, b, question, margins).map_err(usage)?;
    if !output.quiet {
        for warning in &comparison.warnings {
            printer::note(&format!("warning: {warning}"));
        }
    }
    let format = if output.json {
        CompareFormat::Json
    } else {
        arguments.format
    };
    match format {
        CompareFormat::Text => printer::out(text(&comparison).trim_end()),
        CompareFormat::Markdown => printer::out(markdown(&comparison).trim_end()),
        CompareFormat::Json => printer::json(&serde_json::to_value(Document {
            schema: "qbench.compare/1",
            comparison: &comparison,
        })?)?,
    }
    Ok(if fails(&comparison, arguments.fail_on) {
        ExitCode::from(VERDICT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Whether the policy says no. A cell that had numbers in A and failed in B is worse than a slower one.
fn fails(comparison: &Comparison, policy: FailOn) -> bool {
    let failed = comparison.failed_in_b() > 0;
    let slower = comparison.count(Effect::Slower) > 0;
    let worse = comparison.count_quality(QualityVerdict::Worse) > 0;
    let slow_ambiguous = comparison.count(Effect::Ambiguous) > 0 || !comparison.only_in_a.is_empty();
    let ambiguous = slow_ambiguous
        || comparison.count_quality(QualityVerdict::Ambiguous) > 0
        || !comparison.quality_only_in_a.is_empty();
    match policy {
        FailOn::Never => false,
        FailOn::Slower => failed || slower,
        FailOn::SlowerOrAmbiguous => failed || slower || slow_ambiguous,
        FailOn::Worse => failed || worse,
        FailOn::Regression => failed || slower || worse,
        FailOn::RegressionOrAmbiguous => failed || slower || worse || ambiguous,
    }
}
