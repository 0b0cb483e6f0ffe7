//! `qbench quantize`.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result, anyhow, ensure};
use qbench_core::checkpoint::{
    ModelSource, ModulePolicy,
    export::{self, ExportError, ExportOptions},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    child::{self, Limits, Verb},
    cli::{OutputArgs, QuantizeArgs},
    failure::usage,
    plugins::{self, Registry, SchemeChoice},
    printer,
    run::{Progress, all_cores},
};

/// What the child is told.
#[derive(Serialize, Deserialize)]
pub(super) struct QuantizeJob {
    model: String,
    scheme: SchemeChoice,
    out: PathBuf,
    force: bool,
    shard_bytes: u64,
    skip: Vec<String>,
    only: Vec<String>,
    threads: usize,
    quiet: bool,
}

/// What the child wrote.
#[derive(Serialize, Deserialize)]
pub(super) struct Written {
    files: Vec<String>,
    source_bytes: u64,
    bytes: u64,
    quantised_weights: usize,
    seconds_in_scheme: f64,
}

pub(super) fn quantize(arguments: &QuantizeArgs, output: &OutputArgs) -> Result<ExitCode> {
    let search = arguments.plugin_dirs.search(Vec::new());
    let scheme = Registry::discover(&search, false)?.scheme(&arguments.mode)?;
    plugins::check_options(&scheme)?;
    ensure!(
        arguments.shard_size > 0.0,
        usage(anyhow!(
            "--shard-size {}: expected more than 0",
            arguments.shard_size
        ))
    );
    let job = QuantizeJob {
        model: arguments.model.clone(),
        scheme,
        out: arguments.out.clone(),
        force: arguments.force,
        shard_bytes: (arguments.shard_size * 1e9) as u64,
        skip: arguments.skip.clone(),
        only: arguments.only.clone(),
        threads: arguments.threads.unwrap_or_else(all_cores),
        quiet: output.quiet,
    };
    let written: Written =
        child::run(Verb::Quantize, &job, Limits::default(), &printer::note).map_err(|failure| {
            let error = anyhow!(
                "quantise {} with mode `{}`: {}",
                job.model,
                job.scheme.mode,
                failure.reason
            );
            if failure.usage { usage(error) } else { error }
        })?;
    if output.json {
        printer::json(
            &json!({ "schema": "qbench.quantize/1", "out": job.out, "mode": job.scheme.mode, "written": written }),
        )?;
    } else {
        printer::out(&format!(
            "{}: {} weights quantised with {}, {:.3} GB became {:.3} GB ({})",
            job.out.display(),
            written.quantised_weights,
            job.scheme.mode,
            written.source_bytes as f64 / 1e9,
            written.bytes as f64 / 1e9,
            written.files.join(", ")
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The child's side.
pub(super) fn in_this_process(job: &QuantizeJob) -> Result<Written> {
    let checkpoint = ModelSource::resolve(&job.model)
        .and_then(|source| source.open(0))
        .map_err(usage)?;
    let policy = ModulePolicy::new(&job.skip, &job.only).map_err(usage)?;
    let scheme = plugins::load(&job.scheme.path)
        .with_context(|| format!("plugin {}", job.scheme.path.display()))?
        .open_scheme(&job.scheme.id, &job.scheme.options)?;
    let options = ExportOptions {
        out: job.out.clone(),
        force: job.force,
        shard_bytes: job.shard_bytes,
        threads: job.threads,
    };
    let mut progress = Progress::new(checkpoint.entries().len(), job.quiet, "weights");
    let summary = export::write(
        &Arc::new(checkpoint),
        &Arc::from(scheme),
        &policy,
        &options,
        &mut |step| {
            progress.advance_to(step.done, step.tensor);
        },
    );
    progress.end();
    let summary = summary.map_err(|error| match error {
        ExportError::Weight(_) => anyhow::Error::from(error),
        _ => usage(error),
    })?;
    Ok(Written {
        files: summary.files,
        source_bytes: summary.source_bytes,
        bytes: summary.bytes,
        quantised_weights: summary.weights.len(),
        seconds_in_scheme: summary.weights.iter().map(|weight| weight.quantize_seconds).sum(),
    })
}
