//! Cases for backends. They run the tiny Llama of the kit; a backend that does not know Llama skips most of them.

mod forward;
mod layouts;
mod refusal;

use std::sync::Arc;

use super::{
    golden::{CONFIG, GoldenWeights, Storage},
    report::{Broken, Case, Outcome, Verdict, pass},
};
use crate::{
    Backend, DType, Model, Options, Result,
    backend::{Cache, ForwardOutput, LayerOutput, LoadRequest, LogitRows, TokenBatch},
};

type Open = dyn Fn(&Options) -> Result<Box<dyn Backend>>;

/// A backend as it is opened.
pub struct BackendSubject {
    open: Box<Open>,
    device: Option<String>,
}

impl BackendSubject {
    /// The backend that `open` opens, on `device` or else its first one.
    pub fn new(
        open: impl Fn(&Options) -> Result<Box<dyn Backend>> + 'static,
        device: Option<String>,
    ) -> Self {
        Self {
            open: Box::new(open),
            device,
        }
    }

    fn open(&self) -> Result<Box<dyn Backend>> {
        (self.open)(&Options::none())
    }
}

/// All cases for backends, in the order in which they are best read.
pub fn backend_cases() -> &'static [Case<BackendSubject>] {
    &CASES
}

const fn case(
    name: &'static str,
    description: &'static str,
    run: fn(&BackendSubject) -> Outcome,
) -> Case<BackendSubject> {
    Case {
        name,
        description,
        run,
    }
}

static CASES: [Case<BackendSubject>; 11] = [
    case(
        "describes-itself",
        "id, architectures and precisions are there",
        describes_itself,
    ),
    case(
        "finds-devices",
        "devices are listed, or the reason why there is none",
        finds_devices,
    ),
    case(
        "matches-transformers",
        "states and logits of a tiny Llama are those of transformers, padded or not",
        forward::matches_transformers,
    ),
    case(
        "batch-equals-single",
        "a sequence gives the same alone as in a batch",
        forward::batch_equals_single,
    ),
    case(
        "pooled-is-the-mean",
        "pooled states are the means over the tokens, without padding",
        forward::pooled_is_the_mean,
    ),
    case(
        "cache-continues",
        "a sequence in pieces gives the same as at once",
        forward::cache_continues,
    ),
    case(
        "deterministic-as-declared",
        "what says it is deterministic gives the same bits",
        forward::deterministic_as_declared,
    ),
    case(
        "runs-any-codebook",
        "block codebooks of any table, block, nibble order and scale give the decoded weights' results",
        layouts::runs_any_codebook,
    ),
    case(
        "negotiation-is-true",
        "layouts run as was said, and give what the kind defines",
        layouts::negotiation_is_true,
    ),
    case(
        "memory-plausible",
        "memory is counted, and the peak is not below it",
        memory_plausible,
    ),
    case(
        "errors-not-panics",
        "what cannot be done is answered with an error",
        refusal::errors_not_panics,
    ),
];

/// An open backend on one of its devices.
struct Opened {
    backend: Box<dyn Backend>,
    device: String,
    /// f32, or else its first precision.
    precision: DType,
}

/// The backend on a device, or why there is nothing to try.
fn opened(subject: &BackendSubject) -> Result<Result<Opened, String>, Broken> {
    let backend = subject.open()?;
    let info = backend.info();
    let devices = match backend.devices() {
        Ok(devices) => devices,
        Err(reason) => return Ok(Err(format!("no device: {reason}"))),
    };
    let ids: Vec<String> = devices.into_iter().map(|device| device.id).collect();
    let device = match &subject.device {
        Some(wanted) if ids.contains(wanted) => wanted.clone(),
        Some(wanted) => {
            return Err(Broken(format!(
                "no device `{wanted}`; there are: {}",
                ids.join(", ")
            )));
        }
        None => match ids.into_iter().next() {
            Some(first) => first,
            None => return Ok(Err("no device".to_owned())),
        },
    };
    if !info
        .architectures
        .iter()
        .any(|architecture| architecture == "llama")
    {
        return Ok(Err("it does not run Llama models".to_owned()));
    }
    let precision = if info.precisions.contains(&DType::F32) {
        DType::F32
    } else {
        *info
            .precisions
            .first()
            .ok_or_else(|| Broken("it has no precision".to_owned()))?
    };
    Ok(Ok(Opened {
        backend,
        device,
        precision,
    }))
}

/// Runs a case on a device, or skips it.
fn on_device(subject: &BackendSubject, case: impl FnOnce(&Opened) -> Outcome) -> Outcome {
    match opened(subject)? {
        Ok(opened) => case(&opened),
        Err(reason) => Ok((Verdict::Skip, reason)),
    }
}

impl Opened {
    fn load(&self, storage: Storage, compute: DType, threads: usize) -> Result<Box<dyn Model>> {
        self.load_config(CONFIG, storage, compute, threads)
    }

    fn load_config(
        &self,
        config_json: &str,
        storage: Storage,
        compute: DType,
        threads: usize,
    ) -> Result<Box<dyn Model>> {
        self.backend.load(LoadRequest {
            config_json,
            weights: Arc::new(GoldenWeights::new(storage)),
            device: &self.device,
            compute,
            threads,
        })
    }
}

/// Relative error (root mean square over the tokens) that a precision's rounding may cause in the tiny model's three
/// layers: some dozen of roundings of 2⁻⁹ (bf16) or 2⁻¹² (f16) that grow with depth, f32 sums in another order.
fn tolerance(precision: DType) -> f64 {
    match precision {
        DType::F32 => 1e-5,
        DType::F16 => 1e-2,
        _ => 6e-2,
    }
}

/// What a pass is asked for.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    ids: &'a [u32],
    mask: &'a [u8],
    batch: usize,
    cache: Cache,
}

/// What a pass gives.
struct Outputs {
    /// `[layers + 1][batch · length · hidden]`.
    hidden: Vec<Vec<f32>>,
    /// `[layers + 1][batch · hidden]`.
    pooled: Vec<Vec<f32>>,
    /// `[batch · length · vocabulary]`.
    logits: Vec<f32>,
}

/// A pass that asks for everything.
fn forward(model: &mut dyn Model, tokens: Tokens<'_>) -> Result<Outputs> {
    use super::golden::{HIDDEN, LAYERS, VOCABULARY};
    let count = tokens.ids.len();
    let mut hidden = vec![vec![f32::NAN; count * HIDDEN]; LAYERS + 1];
    let mut pooled = vec![vec![f32::NAN; tokens.batch * HIDDEN]; LAYERS + 1];
    let mut logits = vec![f32::NAN; count * VOCABULARY];
    let batch = TokenBatch {
        ids: tokens.ids,
        mask: tokens.mask,
        batch: tokens.batch,
        length: count / tokens.batch,
        cache: tokens.cache,
    };
    let mut output = ForwardOutput {
        hidden: layers(&mut hidden),
        pooled: layers(&mut pooled),
        logits: Some((LogitRows::All, &mut logits)),
    };
    model.forward(batch, &mut output)?;
    model.synchronize()?;
    drop(output);
    Ok(Outputs {
        hidden,
        pooled,
        logits,
    })
}

fn layers(all: &mut [Vec<f32>]) -> Vec<LayerOutput<'_>> {
    let outputs = all.iter_mut().enumerate();
    outputs.map(|(layer, data)| LayerOutput { layer, data }).collect()
}

/// The root mean square of the differences of the rows of tokens, as a share of that of the truth.
fn distance(values: &[f32], truth: &[f32], mask: &[u8]) -> f64 {
    let width = truth.len() / mask.len();
    let (mut error, mut size) = (0.0, 0.0);
    let rows = values
        .chunks_exact(width)
        .zip(truth.chunks_exact(width))
        .zip(mask);
    for ((values, truth), _) in rows.filter(|(_, token)| **token == 1) {
        for (value, truth) in values.iter().zip(truth) {
            error += (f64::from(*value) - f64::from(*truth)).powi(2);
            size += f64::from(*truth).powi(2);
        }
    }
    (error / size).sqrt()
}

/// Fails when a distance is larger than a limit, or NaN.
fn near(what: &str, distance: f64, limit: f64) -> Result<(), Broken> {
    if distance <= limit {
        Ok(())
    } else {
        Err(Broken(format!(
            "{what}: relative error {distance:.2e}; expected at most {limit:.0e}"
        )))
    }
}

fn describes_itself(subject: &BackendSubject) -> Outcome {
    let backend = subject.open()?;
    let info = backend.info();
    if info.id.is_empty() || info.id.contains([':', ',', '/', ' ']) {
        return Err(Broken(format!("the id `{}` cannot be typed", info.id)));
    }
    if info != backend.info() || info != subject.open()?.info() {
        return Err(Broken(
            "what it says of itself changes from call to call".to_owned(),
        ));
    }
    if info.architectures.is_empty() || info.precisions.is_empty() {
        return Err(Broken("it names no architecture or no precision".to_owned()));
    }
    if let Some(integer) = info.precisions.iter().find(|precision| !precision.is_float()) {
        return Err(Broken(format!("{integer} is no precision")));
    }
    if info.summary.trim().is_empty() || info.library.trim().is_empty() {
        return Ok((Verdict::Warn, "summary or library is empty".to_owned()));
    }
    pass()
}

fn finds_devices(subject: &BackendSubject) -> Outcome {
    match subject.open()?.devices() {
        Err(reason) => Ok((Verdict::Skip, format!("no device: {reason}"))),
        Ok(devices) if devices.is_empty() => Err(Broken(
            "no device and no reason: return an error that says why".to_owned(),
        )),
        Ok(devices) => Ok((
            Verdict::Pass,
            devices
                .iter()
                .map(|device| device.id.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        )),
    }
}

fn memory_plausible(subject: &BackendSubject) -> Outcome {
    use super::golden::{LENGTH, ids};
    on_device(subject, |opened| {
        let mut model = opened.load(Storage::AsIs, opened.precision, 2)?;
        let ids = &ids()[..LENGTH];
        let tokens = Tokens {
            ids,
            mask: &[1; LENGTH],
            batch: 1,
            cache: Cache::None,
        };
        forward(model.as_mut(), tokens)?;
        let after = model.memory()?;
        if after.peak_allocated < after.allocated {
            return Err(Broken(format!(
                "the peak of {} bytes is below the {} that are held",
                after.peak_allocated, after.allocated
            )));
        }
        model.reset_peak_memory()?;
        forward(model.as_mut(), tokens)?;
        let again = model.memory()?;
        if again.peak_allocated > 2 * after.peak_allocated {
            return Err(Broken(format!(
                "the same pass peaks at {} bytes, then at {}",
                after.peak_allocated, again.peak_allocated
            )));
        }
        if after.measured_by.trim().is_empty() {
            return Ok((Verdict::Warn, "it does not say who counted".to_owned()));
        }
        Ok((
            Verdict::Pass,
            format!(
                "peak {} bytes, counted by {}",
                after.peak_allocated, after.measured_by
            ),
        ))
    })
}
