//! What a run does: the command line with everything looked up, checked and decided.

use std::{
    ffi::OsStr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use qbench_core::{
    checkpoint::{Checkpoint, Dimensions, Granularity, ModelSource, ModulePolicy, Part, parts},
    data::Dataset,
    measure::sampling::SamplingSettings,
    workload::{Condition, Generation, WorkloadKind},
};
use qbench_sdk::{DType, backend::DeviceInfo};
use serde::Serialize;
use serde_json::Value;

use super::reference::{self, KeptReference, QualitySettings};
use crate::{
    cli::{Evaluate, RunArgs, Sensitivity, TimedWorkload, precision_name},
    failure::usage,
    plugins::{BackendChoice, Registry, SchemeChoice},
    share,
    worker::DataSource,
};

/// The mode that everything is compared with.
pub const REFERENCE_MODE: &str = "standard";

/// The modes of `qbench run`, in the order in which tables show them.
const DEFAULT_MODES: [&str; 5] = [REFERENCE_MODE, "8bit", "4bit_nf4", "4bit_fp4", "4bit_nf4_double"];

/// A run, resolved. Written into the results directory as it is.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What all cells share; results of another configuration are not mixed with these.
    pub configuration: Configuration,
    pub modes: Vec<SchemeChoice>,
    /// The scheme of the reference.
    pub reference: SchemeChoice,
    pub conditions: Vec<String>,
    pub batch_sizes: Vec<NonZeroUsize>,
    pub repeats: usize,
    pub cell_timeout_seconds: f64,
    pub memory_limit_bytes: Option<u64>,
    pub measure_performance: bool,
    pub evaluations: Vec<Evaluate>,
    /// What is quantised one at a time, besides.
    #[serde(serialize_with = "serialize_names")]
    pub parts: Vec<Part>,
    pub keep_reference: bool,
    /// A reference of an earlier run to compare with.
    pub kept_reference: Option<KeptReference>,
    /// Sequences a call where quality is evaluated.
    pub quality_batch_size: NonZeroUsize,
}

/// What all cells of a run share.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// The model as workers open it.
    pub model: String,
    /// The hub's revision of it; empty for other models.
    pub commit: String,
    /// The model as tables show it.
    pub model_label: String,
    /// SHA-256 over the model's files.
    pub model_sha256: String,
    pub synthetic: bool,
    /// What tells the sequences from those of other runs of one sweep, such as `seed=7`; empty outside sweeps.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub data: DataSource,
    pub data_sha256: String,
    /// Sequences of the data set that take part.
    pub sequences: usize,
    pub backend: BackendChoice,
    pub device: DeviceInfo,
    #[serde(serialize_with = "serialize_precision")]
    pub precision: DType,
    /// What is timed.
    pub workload: WorkloadKind,
    pub sampling: SamplingSettings,
    pub max_batches: Option<usize>,
    pub bins: Vec<usize>,
    pub samples_per_condition: usize,
    pub max_tokens: Option<usize>,
    pub threads: usize,
    pub seed: u64,
    pub skip: Vec<String>,
    pub only: Vec<String>,
    pub layer_sequences: usize,
    pub window_bases: usize,
    pub variant_positions: usize,
    pub quality: QualitySettings,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn serialize_precision<S: serde::Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(precision_name(*dtype))
}

fn serialize_names<S: serde::Serializer>(parts: &[Part], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(parts.iter().map(|part| &part.name))
}

/// Where the devices are that cells run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// On this machine: one that is not there is an error.
    Here,
    /// On the nodes of a cluster: a device that is named is taken on trust.
    Elsewhere,
}

impl Plan {
    /// Whether something is to be evaluated.
    pub fn evaluates(&self, what: Evaluate) -> bool {
        self.evaluations.contains(&what)
    }

    /// A condition as tables show it.
    pub fn condition_label(&self, condition: &str) -> String {
        match self.configuration.variant.as_str() {
            "" => condition.to_owned(),
            variant => format!("{condition}, {variant}"),
        }
    }

    /// Looks everything up.
    ///
    /// # Errors
    /// Whatever the user asked for that is not there or cannot be; nothing has been written or run by then.
    pub fn resolve(arguments: &RunArgs, registry: &Registry, devices: Devices) -> Result<Self> {
        let modes = modes(arguments, registry)?;
        let backend = registry.backend(&arguments.backend)?;
        let device = device(arguments, registry, &backend, devices)?;
        let precision = precision(arguments, &backend, &device)?;
        let policy = ModulePolicy::new(&arguments.skip, &arguments.only).map_err(usage)?;

        let source = match &arguments.model {
            Some(text) => ModelSource::resolve(text),
            None => ModelSource::resolve(&share::default_model()?.to_string_lossy()),
        }
        .map_err(usage)?;
        let checkpoint = source.open(arguments.seed).map_err(usage)?;
        check_architecture(&checkpoint, &backend)?;
        policy.check(checkpoint.entries()).map_err(usage)?;
        let parts = arguments.sensitivity.map_or_else(Vec::new, |sensitivity| {
            let granularity = match sensitivity {
                Sensitivity::Layers => Granularity::Layers,
                Sensitivity::Projections => Granularity::Projections,
            };
            parts(&policy, granularity, checkpoint.entries())
        });
        if let (Some(path), true, None) = (&arguments.data, checkpoint.is_synthetic(), checkpoint.tokenizer())
        {
            return Err(usage(anyhow!(
                "--data {}: {} has no tokenizer.json beside its config, so that it is given random tokens and reads no \
                 sequences; leave --data out, or put a tokenizer.json there",
                path.display(),
                argument(&source)
            )));
        }
        let (data, dataset) = data(arguments)?;

        let conditions = unique(conditions(arguments).iter().map(Condition::to_string));
        let dimensions =
            Dimensions::from_config(checkpoint.config_path(), checkpoint.config()).map_err(usage)?;
        let (quality, kept_reference) =
            reference::resolve(arguments, precision, &backend.info.id, &conditions, &dimensions)?;
        let configuration = Configuration {
            quality,
            model: argument(&source),
            commit: source.commit().to_owned(),
            model_label: source.label(),
            model_sha256: checkpoint.fingerprint().to_owned(),
            synthetic: checkpoint.is_synthetic(),
            variant: String::new(),
            data,
            sequences: dataset.sequences.len(),
            data_sha256: dataset.sha256,
            backend,
            device,
            precision,
            workload: workload(arguments, &dimensions)?,
            sampling: SamplingSettings {
                warm_up: arguments.warmup,
                target_ci: arguments.target_ci,
                time_budget_seconds: arguments.time_budget,
            },
            max_batches: arguments.max_batches,
            bins: arguments.bins.clone(),
            samples_per_condition: arguments.samples_per_cond,
            max_tokens: arguments.max_tokens.map(|tokens| tokens as usize),
            threads: arguments.threads.unwrap_or_else(all_cores),
            seed: arguments.seed,
            skip: arguments.skip.clone(),
            only: arguments.only.clone(),
            layer_sequences: arguments.layer_sequences,
            window_bases: arguments.window_bp,
            variant_positions: arguments.variant_positions,
        };
        Ok(Self {
            reference: registry.scheme(REFERENCE_MODE)?,
            conditions,
            batch_sizes: unique(arguments.batch_sizes.iter().copied()),
            repeats: arguments.num_repeats,
            cell_timeout_seconds: arguments.cell_timeout,
            memory_limit_bytes: arguments.memory_limit.map(|gigabytes| (gigabytes * 1e9) as u64),
            measure_performance: !arguments.skip_performance,
            evaluations: evaluations(arguments),
            parts,
            keep_reference: arguments.keep_reference || kept_reference.is_some(),
            kept_reference,
            quality_batch_size: arguments.quality_batch_size,
            configuration,
            modes,
        })
    }
}

/// What is timed, with the lengths of a generation looked at.
fn workload(arguments: &RunArgs, dimensions: &Dimensions) -> Result<WorkloadKind> {
    const PROMPT: NonZeroUsize = NonZeroUsize::new(128).unwrap();
    const GENERATED: NonZeroUsize = NonZeroUsize::new(32).unwrap();
    let lengths = [arguments.prompt_tokens, arguments.generate_tokens];
    let kind = match arguments.workload {
        TimedWorkload::Embed => WorkloadKind::Embed,
        TimedWorkload::Score => WorkloadKind::Score,
        TimedWorkload::Decode => {
            let [prompt, generated] = lengths;
            let generation = Generation {
                prompt_tokens: prompt.unwrap_or(PROMPT),
                generated_tokens: generated.unwrap_or(GENERATED),
            };
            let all = generation
                .prompt_tokens
                .get()
                .saturating_add(generation.generated_tokens.get());
            if let Some(limit) = dimensions.max_positions.filter(|&limit| all > limit) {
                return Err(usage(anyhow!(
                    "a prompt of {} tokens and {} generated ones are more than the model's {limit} positions: use a smaller \
                     --prompt-tokens or --generate-tokens",
                    generation.prompt_tokens,
                    generation.generated_tokens
                )));
            }
            return Ok(WorkloadKind::Decode(generation));
        }
    };
    if lengths != [None, None] {
        return Err(usage(anyhow!(
            "--prompt-tokens and --generate-tokens belong to `--workload decode`; the workload is `{kind}`"
        )));
    }
    Ok(kind)
}

/// The model as a worker, whose working directory may differ, opens it again.
fn argument(source: &ModelSource) -> String {
    let absolute = |path: &Path| {
        path.canonicalize()
            .unwrap_or_else(|_| path.to_owned())
            .display()
            .to_string()
    };
    match source {
        ModelSource::Directory(path) => absolute(path),
        ModelSource::Hub { id, .. } => id.clone(),
        ModelSource::Synthetic(config) => format!("synthetic:{}", absolute(config)),
    }
}

/// All cores that this process may use.
pub fn all_cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The modes to run, `standard` among them: with `--plugin` those beside it, else those of `--modes`.
fn modes(arguments: &RunArgs, registry: &Registry) -> Result<Vec<SchemeChoice>> {
    let mut modes = vec![registry.scheme(REFERENCE_MODE)?];
    let names: Vec<&str> = if arguments.plugin.is_empty() && arguments.modes.is_empty() {
        DEFAULT_MODES.to_vec()
    } else {
        arguments.modes.iter().map(String::as_str).collect()
    };
    for name in names {
        modes.push(registry.scheme(name)?);
    }
    for text in &arguments.plugin {
        if is_file_name(text) {
            modes.extend(registry.schemes_of(&PathBuf::from(text))?);
        } else {
            modes.push(registry.scheme(text)?);
        }
    }
    let mut seen = Vec::new();
    modes.retain(|choice| {
        let new = !seen.contains(&choice.mode);
        seen.push(choice.mode.clone());
        new
    });
    Ok(modes)
}

/// Whether a value of `--plugin` names a file rather than a mode.
pub fn is_file_name(text: &str) -> bool {
    text.contains('/') || Path::new(text).extension() == Some(OsStr::new("so"))
}

fn device(
    arguments: &RunArgs,
    registry: &Registry,
    backend: &BackendChoice,
    devices: Devices,
) -> Result<DeviceInfo> {
    let id = &backend.info.id;
    if let (Devices::Elsewhere, Some(asked)) = (devices, &arguments.device) {
        return Ok(DeviceInfo {
            id: asked.clone(),
            ..DeviceInfo::default()
        });
    }
    let devices = match registry.devices(backend) {
        Some(Ok(devices)) => devices.clone(),
        Some(Err(reason)) => return Err(usage(anyhow!("backend `{id}` has no device: {reason}"))),
        None => bail!("backend `{id}` was not asked for its devices"),
    };
    let ids: Vec<String> = devices.iter().map(|device| device.id.clone()).collect();
    let chosen = match &arguments.device {
        Some(asked) => devices.into_iter().find(|device| device.id == *asked),
        None => devices.into_iter().next(),
    };
    chosen.ok_or_else(|| {
        let asked = arguments.device.as_deref().unwrap_or("any");
        usage(anyhow!(
            "backend `{id}` has no device `{asked}`; there are: {}",
            ids.join(", ")
        ))
    })
}

fn precision(arguments: &RunArgs, backend: &BackendChoice, device: &DeviceInfo) -> Result<DType> {
    let dtype = match arguments.precision {
        Some(precision) => precision.dtype(),
        None if device.id.starts_with("cpu") => DType::F32,
        None => DType::BF16,
    };
    if backend.info.precisions.contains(&dtype) {
        return Ok(dtype);
    }
    let known: Vec<&str> = backend
        .info
        .precisions
        .iter()
        .map(|dtype| precision_name(*dtype))
        .collect();
    Err(usage(anyhow!(
        "backend `{}` does not compute in {}; it knows: {}",
        backend.info.id,
        precision_name(dtype),
        known.join(", ")
    )))
}

fn check_architecture(checkpoint: &Checkpoint, backend: &BackendChoice) -> Result<()> {
    let known = &backend.info.architectures;
    let model_type = checkpoint.config().get("model_type").and_then(Value::as_str);
    if model_type.is_some_and(|model_type| known.iter().any(|name| name == model_type)) {
        return Ok(());
    }
    Err(usage(anyhow!(
        "{}: model_type {} is not one that backend `{}` runs; it runs: {}",
        checkpoint.config_path().display(),
        model_type.map_or("(none)".to_owned(), |name| format!("`{name}`")),
        backend.info.id,
        known.join(", ")
    )))
}

fn data(arguments: &RunArgs) -> Result<(DataSource, Dataset)> {
    let source = match &arguments.data {
        // User data is used whole.
        Some(path) => DataSource {
            path: path
                .canonicalize()
                .with_context(|| format!("data {}", path.display()))
                .map_err(usage)?,
            per_genome: None,
        },
        None => DataSource {
            path: share::default_data()?,
            per_genome: Some(share::DEFAULT_FRAGMENTS_PER_GENOME),
        },
    };
    let dataset = source.read().map_err(usage)?;
    Ok((source, dataset))
}

/// Each value once, where it stands first: what is typed twice is measured once.
fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.fold(Vec::new(), |mut kept, value| {
        if !kept.contains(&value) {
            kept.push(value);
        }
        kept
    })
}

/// Each evaluation once, in the order in which they run.
fn evaluations(arguments: &RunArgs) -> Vec<Evaluate> {
    if arguments.skip_quality {
        return Vec::new();
    }
    let asked = &arguments.evaluate;
    let all = Evaluate::value_variants().iter().copied();
    all.filter(|&what| what != Evaluate::All && (asked.contains(&what) || asked.contains(&Evaluate::All)))
        .collect()
}

fn conditions(arguments: &RunArgs) -> Vec<Condition> {
    let bases = arguments
        .truncate_bp
        .iter()
        .map(|&bases| Condition::TruncateBp(bases));
    let tokens = arguments
        .truncate_tokens
        .iter()
        .map(|&tokens| Condition::TruncateTokens(tokens));
    let bins = arguments.bins.iter().map(|&bases| Condition::Bin(bases));
    let conditions: Vec<Condition> = bases.chain(tokens).chain(bins).collect();
    if conditions.is_empty() {
        vec![Condition::Full]
    } else {
        conditions
    }
}
