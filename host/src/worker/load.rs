//! Loading the model of a cell: plugins, weights, negotiation.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use qbench_core::{
    checkpoint::{Checkpoint, ModelSource, ModulePolicy, StoredWeights, TensorRecord},
    results::LayerExecution,
};
use qbench_sdk::{
    Backend, Model, QuantScheme,
    backend::{DeviceInfo, Execution, LoadRequest, ModelInfo},
};

use super::{CellJob, Task, noise::Bf16Noise, witness::Witness};
use crate::{hash::sha256_of_file, plugins};

/// A loaded model with what the host knows of it.
pub(super) struct Loaded {
    pub model: Box<dyn Model>,
    pub info: ModelInfo,
    pub weights: Arc<StoredWeights>,
    pub device: DeviceInfo,
    /// Seconds from the start of loading to its end, quantising left out.
    pub load_seconds: f64,
    /// Seconds in the scheme's `quantize`.
    pub quantize_seconds: f64,
    /// Bytes of the weights that were quantised in that time, as the checkpoint stores them.
    pub quantize_source_bytes: u64,
    pub execution: Vec<LayerExecution>,
    /// What the backend answered for each layout kind before loading.
    pub negotiated: Vec<(String, Execution)>,
    /// Scratch that the scheme's own products may hold.
    pub scheme_workspace_bytes: u64,
    /// What the system counts since before loading, or why it does not.
    pub witness: Result<Witness, String>,
}

/// Opens the model's checkpoint.
pub(super) fn open_checkpoint(job: &CellJob) -> Result<Arc<Checkpoint>> {
    Ok(Arc::new(ModelSource::resolve(&job.model)?.open(job.seed)?))
}

/// Loads the model with the job's scheme on the job's backend.
pub(super) fn load(job: &CellJob, checkpoint: &Arc<Checkpoint>) -> Result<Loaded> {
    let scheme: Arc<dyn QuantScheme> = match &job.task {
        Task::Quality(task) if task.bf16_noise => Arc::new(Bf16Noise { seed: job.seed }),
        _ => Arc::from(
            open(&job.scheme.path, &job.scheme.sha256)?
                .open_scheme(&job.scheme.id, &job.scheme.options)
                .with_context(|| format!("mode `{}`", job.scheme.mode))?,
        ),
    };
    let backend = open(&job.backend.path, &job.backend.sha256)?
        .open_backend(&job.backend.info.id, &job.backend.options)
        .with_context(|| format!("backend `{}`", job.backend.info.id))?;
    let device = find_device(backend.as_ref(), job)?;
    let policy = ModulePolicy::new(&job.skip, &job.only)?;
    let weights = StoredWeights::new(
        checkpoint.clone(),
        scheme.clone(),
        &policy,
        job.compute,
        job.threads,
    )?;
    let weights = Arc::new(weights);
    let negotiated = negotiate(backend.as_ref(), job, &weights)?;
    let layouts = weights.layouts();
    let scheme_workspace_bytes = layouts
        .iter()
        .map(|(layout, _)| scheme.workspace_bytes(layout))
        .max()
        .unwrap_or_default();
    let witness = Witness::start(&device);

    let start = Instant::now();
    let mut model = backend
        .load(LoadRequest {
            config_json: checkpoint.config_text(),
            weights: weights.clone(),
            device: &job.device,
            compute: job.compute,
            threads: job.threads,
        })
        .with_context(|| format!("load {} with mode `{}`", job.model, job.scheme.mode))?;
    model.synchronize()?;
    let seconds = start.elapsed().as_secs_f64();
    let quantised: Vec<TensorRecord> = weights
        .records()
        .into_iter()
        .filter(|record| record.quantize_seconds > 0.0)
        .collect();
    // Not `sum`, which gives −0 for no tensors.
    let quantize_seconds = quantised
        .iter()
        .fold(0.0, |seconds, record| seconds + record.quantize_seconds);
    let quantize_source_bytes = quantised.iter().map(|record| record.source_bytes).sum();
    let load_seconds = (seconds - quantize_seconds).max(0.0);
    let info = model.info()?;
    let execution = summarise(&info);
    Ok(Loaded {
        model,
        info,
        weights,
        device,
        load_seconds,
        quantize_seconds,
        quantize_source_bytes,
        execution,
        negotiated,
        scheme_workspace_bytes,
        witness,
    })
}

/// Opens a plugin that the host chose, if it is still the same file.
fn open(path: &Path, sha256: &str) -> Result<qbench_sdk::host::Plugin> {
    ensure!(
        sha256_of_file(path)? == sha256,
        "plugin {}: it changed since the run started; start again",
        path.display()
    );
    plugins::load(path).with_context(|| format!("plugin {}", path.display()))
}

fn find_device(backend: &dyn Backend, job: &CellJob) -> Result<DeviceInfo> {
    let devices = backend
        .devices()
        .with_context(|| format!("backend `{}`", job.backend.info.id))?;
    let ids: Vec<String> = devices.iter().map(|device| device.id.clone()).collect();
    devices
        .into_iter()
        .find(|device| device.id == job.device)
        .with_context(|| {
            format!(
                "backend `{}` has no device `{}`; there are: {}",
                job.backend.info.id,
                job.device,
                ids.join(", ")
            )
        })
}

/// Asks the backend about every layout before anything is quantised or loaded; the answers by layout kind.
fn negotiate(
    backend: &dyn Backend,
    job: &CellJob,
    weights: &StoredWeights,
) -> Result<Vec<(String, Execution)>> {
    let mut answers = Vec::new();
    for (layout, _) in weights.layouts() {
        let execution = match weights.cuda_kernel(&layout)? {
            Some(kernel) => backend.negotiate_with_kernel(&job.device, &layout, job.compute, &kernel)?,
            None => backend.negotiate(&job.device, &layout, job.compute)?,
        };
        if let Execution::Unsupported { reason } = &execution {
            bail!(
                "backend `{}` cannot run mode `{}` ({}): {reason}",
                job.backend.info.id,
                job.scheme.mode,
                layout.kind()
            );
        }
        answers.push((layout.kind().to_owned(), execution));
    }
    Ok(answers)
}

/// How many weights run in which way, by the model's own account after loading.
fn summarise(info: &ModelInfo) -> Vec<LayerExecution> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for weight in &info.weights {
        *counts
            .entry((weight.layout.clone(), weight.execution.to_string()))
            .or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((layout, execution), weights)| LayerExecution {
            layout,
            weights,
            execution,
        })
        .collect()
}
