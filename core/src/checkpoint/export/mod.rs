//! Writes a quantised model in the format of bitsandbytes, which transformers loads without further options.

mod bitsandbytes;
mod directory;
mod error;
mod shards;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use qbench_sdk::{DType, QuantScheme, Weights};
use serde_json::Value;

use super::policy::{HEADS, is_head, linear_or_head};
use super::{Checkpoint, ModulePolicy, StoredWeights, TensorRecord};
use bitsandbytes::Settings;
use directory::NewDirectory;
pub use error::ExportError;
use shards::{Output, Writer};

/// Bytes of tensors a file, unless told otherwise.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Where and how to write a quantised model.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The directory to make.
    pub out: PathBuf,
    /// Replace `out` if it is there and not empty.
    pub force: bool,
    /// Most bytes of tensors in one file; a single larger weight gets a file of its own. It bounds the memory that
    /// quantised weights take before they are written.
    pub shard_bytes: u64,
    /// Threads that quantising may use.
    pub threads: usize,
}

/// How far an export is, told before each tensor.
#[derive(Clone, Copy, Debug)]
pub struct ExportProgress<'a> {
    /// Tensors that are done.
    pub done: usize,
    /// Tensors in the model.
    pub total: usize,
    /// The next one.
    pub tensor: &'a str,
}

/// What an export wrote.
#[derive(Clone, Debug)]
pub struct ExportSummary {
    /// Names of the files in the new directory, sorted.
    pub files: Vec<String>,
    /// Bytes of all tensors as they were.
    pub source_bytes: u64,
    /// Bytes of all tensors as they are.
    pub bytes: u64,
    /// How each quantised weight is stored, sorted by name.
    pub weights: Vec<TensorRecord>,
}

/// Quantises a model in the type of its checkpoint and writes it to a new directory: `model.safetensors` (or shards
/// with an index), `config.json` with a `quantization_config`, and whatever else lies beside the weights (tokenizer,
/// generation settings, model card).
///
/// The directory appears when it is complete, and not at all after an error.
///
/// # Errors
/// [`ExportError::NoFormat`] when the mode's storage is none of bitsandbytes'; [`ExportError::NotEmpty`] and
/// [`ExportError::Overlap`] when `out` must not be replaced; otherwise what kept a weight from being read, quantised
/// or written.
pub fn write(
    checkpoint: &Arc<Checkpoint>,
    scheme: &Arc<dyn QuantScheme>,
    policy: &ModulePolicy,
    options: &ExportOptions,
    progress: &mut dyn FnMut(ExportProgress<'_>),
) -> Result<ExportSummary, ExportError> {
    // In a run of f32 no weight is rounded before it is quantised: it stays in the checkpoint's type.
    let weights = StoredWeights::new(
        Arc::clone(checkpoint),
        Arc::clone(scheme),
        policy,
        DType::F32,
        options.threads,
    )?;
    let no_format = |tensor: &str, reason| ExportError::NoFormat {
        scheme: scheme.info().id,
        tensor: tensor.to_owned(),
        reason,
    };
    for (name, layout) in weights.quantised() {
        bitsandbytes::check(layout).map_err(|reason| no_format(name, reason))?;
    }
    let directory = NewDirectory::create(&options.out, options.force, checkpoint.directory())?;
    let mut writer = Writer::new(&directory, checkpoint, &weights, options.shard_bytes);
    let mut settings: Option<Settings> = None;
    let mut source_bytes = 0;
    for (done, (name, entry)) in checkpoint.entries().enumerate() {
        progress(ExportProgress {
            done,
            total: checkpoint.entries().len(),
            tensor: name,
        });
        source_bytes += entry.bytes() as u64;
        let Some(dtype) = entry.dtype.filter(|_| weights.layout(name).is_some()) else {
            writer.add([Output::unchanged(
                name,
                entry,
                checkpoint.bytes(name, options.threads)?,
            )])?;
            continue;
        };
        let stored = Arc::from(weights.tensor(name).map_err(ExportError::Weight)?);
        let (format, outputs) =
            bitsandbytes::outputs(name, dtype, &stored).map_err(|reason| no_format(name, reason))?;
        match settings {
            None => {
                settings = Some(Settings {
                    format,
                    compute: dtype,
                });
            }
            Some(first) if first.format == format => {}
            Some(_) => {
                return Err(no_format(
                    name,
                    "its settings differ from those of other weights".to_owned(),
                ));
            }
        }
        writer.add(outputs)?;
    }
    let settings = settings.ok_or_else(|| ExportError::NothingQuantised {
        checkpoint: checkpoint.name().to_owned(),
    })?;
    let bytes = writer.finish()?;
    directory.write_json("config.json", &config(checkpoint, &weights, settings))?;
    if let Some(source) = checkpoint.directory() {
        directory.copy_companions(source)?;
    }
    Ok(ExportSummary {
        files: directory.publish()?,
        source_bytes,
        bytes,
        weights: weights
            .records()
            .into_iter()
            .filter(|record| record.quantised)
            .collect(),
    })
}

/// The model's config with what transformers needs to know of the quantised weights.
fn config(checkpoint: &Checkpoint, weights: &StoredWeights, settings: Settings) -> Value {
    let mut config = checkpoint.config().clone();
    // Without a type transformers would take that of the first tensor in the file, which may be one of the scales.
    if config["dtype"].is_null() && config["torch_dtype"].is_null() {
        config["torch_dtype"] = bitsandbytes::torch_name(settings.compute).into();
    }
    config["quantization_config"] = bitsandbytes::config(settings, skipped(checkpoint, weights).as_deref());
    config
}

/// The modules that transformers must leave alone, or `None` where those are the ones that it leaves alone anyway.
fn skipped(checkpoint: &Checkpoint, weights: &StoredWeights) -> Option<Vec<String>> {
    let left_out: Vec<&str> = checkpoint
        .entries()
        .filter(|(name, _)| weights.layout(name).is_none())
        .filter_map(|(name, entry)| linear_or_head(name, entry))
        .filter(|module| !is_head(module))
        .collect();
    // A list replaces the heads that transformers would find by itself; those of tied models are no tensors.
    (!left_out.is_empty()).then(|| HEADS.into_iter().chain(left_out).map(str::to_owned).collect())
}
