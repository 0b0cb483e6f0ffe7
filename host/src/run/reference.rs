//! What quality is compared with, and how.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use qbench_core::{
    checkpoint::Dimensions,
    quality::{ReferenceLabel, read_label},
};
use qbench_sdk::DType;
use serde::Serialize;

use super::{Plan, plan::REFERENCE_MODE};
use crate::{
    cli::{Precision, RunArgs, precision_name},
    failure::usage,
    worker::{QualityTask, SlidingWindows},
};

/// How the quality of all cells is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QualitySettings {
    /// Type in which the reference is computed, as tables name it.
    pub reference_precision: &'static str,
    /// Id of the backend that made the reference.
    pub reference_backend: String,
    /// Windows of the sliding perplexity.
    pub windows: Option<SlidingWindows>,
}

/// A reference of an earlier run: a directory for each condition.
#[derive(Clone, Debug, Serialize)]
pub struct KeptReference {
    pub directory: PathBuf,
}

/// The name of a condition's directory.
pub fn directory_name(condition: &str) -> String {
    condition.replace(['=', '~'], "_")
}

impl KeptReference {
    /// Where the reference of a condition lies.
    pub fn of(&self, condition: &str) -> PathBuf {
        self.directory.join(directory_name(condition))
    }
}

/// Decides about `--reference`, `--context-len` and `--stride`.
///
/// # Errors
/// A directory without a reference for a condition; windows that the model does not take.
pub fn resolve(
    arguments: &RunArgs,
    precision: DType,
    backend: &str,
    conditions: &[String],
    dimensions: &Dimensions,
) -> Result<(QualitySettings, Option<KeptReference>)> {
    let windows = windows(arguments, dimensions)?;
    let settings = |reference_precision: DType, backend: &str| QualitySettings {
        reference_precision: precision_name(reference_precision),
        reference_backend: backend.to_owned(),
        windows,
    };
    match arguments.reference.as_str() {
        "f32" => Ok((settings(DType::F32, backend), None)),
        REFERENCE_MODE => Ok((settings(precision, backend), None)),
        directory => {
            let directory = Path::new(directory).canonicalize().map_err(|error| {
                usage(anyhow!(
                    "--reference {directory}: {error}; expected f32, standard, or the directory `reference` of a run \
                     with --keep-reference"
                ))
            })?;
            let kept = KeptReference { directory };
            let mut label = ReferenceLabel::default();
            for condition in conditions {
                label = read_label(&kept.of(condition)).map_err(|error| {
                    usage(anyhow!(
                        "--reference: no finished reference for condition {condition}: {error}"
                    ))
                })?;
            }
            let text =
                |map: &BTreeMap<String, String>, name: &str| map.get(name).cloned().unwrap_or_default();
            let name = text(&label.identity, "precision");
            let kept_precision = [DType::F32, DType::F16, DType::BF16]
                .into_iter()
                .find(|dtype| precision_name(*dtype) == name)
                .ok_or_else(|| usage(anyhow!("--reference: unknown precision `{name}`")))?;
            Ok((
                settings(kept_precision, &text(&label.origin, "backend")),
                Some(kept),
            ))
        }
    }
}

fn windows(arguments: &RunArgs, dimensions: &Dimensions) -> Result<Option<SlidingWindows>> {
    let Some(context_len) = arguments.context_len else {
        return Ok(None);
    };
    let stride = arguments.stride.unwrap_or(context_len / 2);
    if stride == 0 || stride >= context_len {
        return Err(usage(anyhow!(
            "--stride {stride}: expected 1 to {} for --context-len {context_len}",
            context_len - 1
        )));
    }
    match dimensions.max_positions {
        Some(most) if context_len > most => Err(usage(anyhow!(
            "--context-len {context_len}: the model takes {most} tokens at most"
        ))),
        _ => Ok(Some(SlidingWindows { context_len, stride })),
    }
}

impl Plan {
    /// Type in which the reference is computed.
    pub fn reference_dtype(&self) -> DType {
        let name = self.configuration.quality.reference_precision;
        [Precision::Float16, Precision::Bfloat16]
            .map(Precision::dtype)
            .into_iter()
            .find(|dtype| precision_name(*dtype) == name)
            .unwrap_or(DType::F32)
    }

    /// What the quality cells of a condition are told; `directory` is where this run keeps its own reference of it,
    /// `OUTDIR/reference/CONDITION`.
    pub(super) fn quality_task(&self, condition: &str, directory: &Path) -> QualityTask {
        let configuration = &self.configuration;
        let settings = &configuration.quality;
        let own = directory.to_owned();
        QualityTask {
            directory: self
                .kept_reference
                .as_ref()
                .map_or(own, |kept| kept.of(condition)),
            scratch: directory.ancestors().nth(2).unwrap_or(directory).to_owned(),
            label: self.label(condition),
            reference: format!(
                "{REFERENCE_MODE} {} on {}",
                settings.reference_precision, settings.reference_backend
            ),
            reference_precision: self.reference_dtype(),
            batch_size: self.quality_batch_size,
            windows: settings.windows,
            bf16_noise: false,
        }
    }

    /// What a reference of this run is of.
    fn label(&self, condition: &str) -> ReferenceLabel {
        let configuration = &self.configuration;
        let optional = |value: Option<usize>| value.map_or_else(String::new, |value| value.to_string());
        let windows = configuration.quality.windows;
        let map = |pairs: Vec<(&str, String)>| -> BTreeMap<String, String> {
            pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        ReferenceLabel {
            identity: map(vec![
                ("mode", REFERENCE_MODE.to_owned()),
                ("precision", configuration.quality.reference_precision.to_owned()),
                ("model_sha256", configuration.model_sha256.clone()),
                ("data_sha256", configuration.data_sha256.clone()),
                ("fragments_per_genome", optional(configuration.data.per_genome)),
                ("condition", condition.to_owned()),
                ("bins", format!("{:?}", configuration.bins)),
                (
                    "samples_per_condition",
                    configuration.samples_per_condition.to_string(),
                ),
                ("seed", configuration.seed.to_string()),
                ("max_tokens", optional(configuration.max_tokens)),
                ("batch_size", self.quality_batch_size.to_string()),
                (
                    "context_len",
                    optional(windows.map(|windows| windows.context_len)),
                ),
                ("stride", optional(windows.map(|windows| windows.stride))),
            ]),
            origin: map(vec![
                ("backend", configuration.backend.info.id.clone()),
                ("device", configuration.device.id.clone()),
                ("backend_sha256", configuration.backend.sha256.clone()),
                ("mode_sha256", self.reference.sha256.clone()),
            ]),
        }
    }
}
