//! A backend against the CPU backend: every mode, precision and small model, padded batches and the cache.

mod shaken;

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use qbench::plugins::load;
use qbench_core::checkpoint::{Checkpoint, ModulePolicy, StoredWeights};
use qbench_sdk::{
    DType, Model, Options,
    backend::{Cache, ForwardOutput, LoadRequest, LogitRows, TokenBatch},
};
use qbench_tests::{plugin, repository};
use shaken::{SHAKES, shaken};

pub(crate) const MODES: [&str; 5] = ["standard", "8bit", "4bit_nf4", "4bit_fp4", "4bit_nf4_double"];

/// Largest difference of a logit in f32, relative to the largest logit: some hundred roundings, in another order. The most
/// that was seen of any backend is 2.1e-6.
const LOGITS: f64 = 1e-5;
/// Mean KL of the next token's distribution, in nats: f32 with int8 products, half precisions, and those with int8
/// products. A sequence alone differs by 1e-4 from the same in a batch, since outlier columns are those of the call.
///
/// In f32 with int8 products a backend may also differ by this many times what the CPU backend itself does when the last
/// bits of the norms are others, where that is more: four such changes gave up to 4.8e-5 on the default model. A sum in
/// another order rounds an activation to the other of two codes just so.
const KL_INT8: f64 = 1e-5;
const TIMES_SHAKEN: f64 = 3.0;
const KL_HALF: f64 = 5e-4;
const KL_HALF_INT8: f64 = 1.5e-3;
/// The same for ternary weights in half precisions: the CPU multiplies by a row's scale after its sum, in f32, a GPU turns
/// the weights into the precision.
const KL_HALF_TERNARY: f64 = 1.5e-3;

/// The file of the plugin that has a mode: those of the examples lie in the folder that `$QBENCH_EXAMPLES` names.
fn scheme_file(mode: &str) -> PathBuf {
    let example = |name: &str| {
        let folder = env::var_os("QBENCH_EXAMPLES")
            .expect("QBENCH_EXAMPLES names the folder of the examples' plugins");
        PathBuf::from(folder).join(name)
    };
    match mode {
        "fp8" => example("libqbench_fp8.so"),
        "c_int4" | "c_ternary" => example("libqbench_c_example.so"),
        _ => plugin("libqbench_modes.so"),
    }
}

/// How far the mode's own rounding reaches, where that bounds what two right implementations can agree on: of products in
/// e4m3 the distance of the mode from `standard`, of int8 products in f32 that from the same with other last bits.
fn own(folder: &str, mode: &str, precision: DType, batch: &Batch, truth: &[f32]) -> Option<f64> {
    let from = |folder: &Path, mode: &str| {
        let mut other = Engine::cpu().model(folder, mode, precision);
        let vocab = other.info().unwrap().vocab_size;
        let other = batch.logits(other.as_mut(), vocab);
        distance(truth, &other, &batch.mask, vocab).1
    };
    match (mode, precision) {
        ("fp8", _) => Some(from(&repository().join(folder), "standard")),
        ("8bit", DType::F32) => (0..SHAKES)
            .map(|shake| from(shaken(folder, shake).path(), mode))
            .reduce(f64::max),
        _ => None,
    }
}

/// Whether the logits, or failing that their distributions, are as near as the mode and the precision allow, and its
/// [`own`] rounding. Sums of products in e4m3 differ in the last of the bits that tensor cores
/// add with; now and then that rounds an activation to the other of two e4m3 numbers, which are a sixteenth apart, and every
/// layer after it differs. So far, but no farther than the mode's rounding itself, two right implementations may be apart.
fn agrees(mode: &str, precision: DType, worst: f64, divergence: f64, own: Option<f64>) -> bool {
    match (mode, precision) {
        ("fp8", _) => own.is_some_and(|own| divergence <= own),
        ("8bit", DType::F32) => own.is_some_and(|own| divergence <= KL_INT8.max(TIMES_SHAKEN * own)),
        ("8bit", _) => divergence <= KL_HALF_INT8,
        (_, DType::F32) => worst <= LOGITS,
        ("c_ternary", _) => divergence <= KL_HALF_TERNARY,
        _ => divergence <= KL_HALF,
    }
}

/// A backend with one of its devices.
pub(crate) struct Engine {
    pub(crate) id: &'static str,
    pub(crate) file: PathBuf,
    pub(crate) device: &'static str,
}

impl Engine {
    fn cpu() -> Self {
        Self {
            id: "cpu",
            file: plugin("libqbench_cpu.so"),
            device: "cpu",
        }
    }

    fn model(&self, folder: &Path, mode: &str, compute: DType) -> Box<dyn Model> {
        self.load(Checkpoint::open(folder).unwrap(), mode, compute)
    }

    pub(crate) fn load(&self, checkpoint: Checkpoint, mode: &str, compute: DType) -> Box<dyn Model> {
        let threads = std::thread::available_parallelism().unwrap().get();
        let scheme = load(&scheme_file(mode))
            .unwrap()
            .open_scheme(mode, &Options::none())
            .unwrap();
        let backend = load(&self.file)
            .unwrap()
            .open_backend(self.id, &Options::none())
            .unwrap();
        let checkpoint = Arc::new(checkpoint);
        let weights = StoredWeights::new(
            checkpoint.clone(),
            Arc::from(scheme),
            &ModulePolicy::new(&[], &[]).unwrap(),
            compute,
            threads,
        );
        backend
            .load(LoadRequest {
                config_json: checkpoint.config_text(),
                weights: Arc::new(weights.unwrap()),
                device: self.device,
                compute,
                threads,
            })
            .unwrap()
    }
}

/// Three sequences: whole, padded on the right, padded on the left.
struct Batch {
    ids: Vec<u32>,
    mask: Vec<u8>,
    length: usize,
}

const SEQUENCES: usize = 3;

impl Batch {
    fn new(vocab: usize, length: usize) -> Self {
        let mut state = 1_u64;
        let ids = (0..SEQUENCES * length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u32 % vocab as u32
            })
            .collect();
        let mut mask = vec![1; SEQUENCES * length];
        mask[2 * length - length / 4..2 * length].fill(0);
        mask[2 * length..2 * length + length / 3].fill(0);
        Self { ids, mask, length }
    }

    fn logits(&self, model: &mut dyn Model, vocab: usize) -> Vec<f32> {
        let mut logits = vec![f32::NAN; self.ids.len() * vocab];
        let batch = TokenBatch {
            ids: &self.ids,
            mask: &self.mask,
            batch: SEQUENCES,
            length: self.length,
            cache: Cache::None,
        };
        let mut output = ForwardOutput {
            logits: Some((LogitRows::All, &mut logits)),
            ..ForwardOutput::default()
        };
        model.forward(batch, &mut output).unwrap();
        model.synchronize().unwrap();
        logits
    }

    /// The same, one sequence a call and its tokens alone, as far as the batch's positions allow: the first sequence.
    fn first_alone(&self, model: &mut dyn Model, vocab: usize) -> Vec<f32> {
        let mut logits = vec![f32::NAN; self.length * vocab];
        let batch = TokenBatch {
            ids: &self.ids[..self.length],
            mask: &self.mask[..self.length],
            batch: 1,
            length: self.length,
            cache: Cache::None,
        };
        let mut output = ForwardOutput {
            logits: Some((LogitRows::All, &mut logits)),
            ..ForwardOutput::default()
        };
        model.forward(batch, &mut output).unwrap();
        logits
    }
}

fn log_probabilities(row: &[f32]) -> Vec<f64> {
    let max = row
        .iter()
        .fold(f64::NEG_INFINITY, |max, value| max.max(f64::from(*value)));
    let sum: f64 = row.iter().map(|value| (f64::from(*value) - max).exp()).sum();
    row.iter()
        .map(|value| f64::from(*value) - max - sum.ln())
        .collect()
}

/// Largest difference relative to the largest logit, and mean KL(truth ‖ values), over the rows of tokens.
fn distance(values: &[f32], truth: &[f32], mask: &[u8], vocab: usize) -> (f64, f64) {
    let (mut largest, mut worst, mut divergence, mut count) = (0.0_f64, 0.0_f64, 0.0, 0_u32);
    for (row, _) in mask.iter().enumerate().filter(|(_, token)| **token == 1) {
        let (values, truth) = (&values[row * vocab..][..vocab], &truth[row * vocab..][..vocab]);
        for (value, truth) in values.iter().zip(truth) {
            assert!(value.is_finite(), "row {row}: {value}");
            largest = largest.max(f64::from(truth.abs()));
            worst = worst.max((f64::from(*value) - f64::from(*truth)).abs());
        }
        let (values, truth) = (log_probabilities(values), log_probabilities(truth));
        divergence += truth
            .iter()
            .zip(&values)
            .map(|(truth, value)| truth.exp() * (truth - value))
            .sum::<f64>();
        count += 1;
    }
    (worst / largest, divergence / f64::from(count))
}

/// Fails where the engine's logits are too far from the CPU backend's. How it ran each mode's quantised weights is told to
/// `ran`.
pub(crate) fn check_modes(
    engine: &Engine,
    precisions: &[DType],
    modes: &[&str],
    ran: impl Fn(&str, DType, &BTreeSet<String>),
) {
    let mut failures = Vec::new();
    println!(
        "model, precision, mode: max |difference| / max |logit|, KL(cpu || {}), KL of one sequence alone || in the batch",
        engine.id
    );
    for (folder, length) in [
        ("tests/fixtures/transformers/llama", 20),
        ("tests/fixtures/transformers/mistral", 20),
        ("tests/fixtures/bitsandbytes/mistral-tiny", 150),
        ("examples/go-mini-12m", 200),
    ] {
        for precision in precisions.iter().copied() {
            for mode in modes.iter().copied() {
                let path = repository().join(folder);
                let mut cpu = Engine::cpu().model(&path, mode, precision);
                let mut other = engine.model(&path, mode, precision);
                let info = other.info().unwrap();
                let vocab = info.vocab_size;
                // All but dense ones: norms, and embeddings.
                let executions = info
                    .weights
                    .iter()
                    .filter(|weight| !weight.layout.starts_with("qbench.dense/"))
                    .map(|weight| weight.execution.to_string())
                    .collect();
                ran(mode, precision, &executions);
                let batch = Batch::new(vocab, length);
                let truth = batch.logits(cpu.as_mut(), vocab);
                let values = batch.logits(other.as_mut(), vocab);
                let (worst, divergence) = distance(&values, &truth, &batch.mask, vocab);
                let alone = batch.first_alone(other.as_mut(), vocab);
                let (_, floor) = distance(&values[..alone.len()], &alone, &batch.mask[..length], vocab);
                let own = own(folder, mode, precision, &batch, &truth);
                let agrees = agrees(mode, precision, worst, divergence, own);
                let own = own.map_or_else(String::new, |own| format!(", the mode's own {own:.1e}"));
                let line =
                    format!("{folder}, {precision}, {mode}: {worst:.1e}, {divergence:.1e}, {floor:.1e}{own}");
                println!("{line}{}", if agrees { "" } else { "  TOO FAR" });
                if !agrees {
                    failures.push(line);
                }
                assert_eq!(
                    batch.logits(other.as_mut(), vocab),
                    values,
                    "the same input gives the same bits"
                );
                let seconds = other.device_seconds().unwrap();
                assert!(if engine.device == "cpu" {
                    seconds.is_none()
                } else {
                    seconds > Some(0.0)
                });
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Fails where passes over a cache give other logits than one pass over the whole.
pub(crate) fn check_cache(engine: &Engine, modes: &[&str]) {
    for mode in modes {
        check_cached(engine, mode, DType::F32, 1e-5);
        check_cached(engine, mode, DType::BF16, 0.05);
    }
}

/// The same for one mode and precision: logits may differ by `tolerance` times the largest.
pub(crate) fn check_cached(engine: &Engine, mode: &str, precision: DType, tolerance: f64) {
    // A backend may record steps of one token and repeat them, and move its cache as it grows: 256 is a likely size.
    let ends: Vec<usize> = [130]
        .into_iter()
        .chain(131..=140)
        .chain([250])
        .chain(251..=270)
        .chain([300])
        .collect();
    let mut other = engine.model(&repository().join("examples/go-mini-12m"), mode, precision);
    let vocab = other.info().unwrap().vocab_size;
    let batch = Batch::new(vocab, 300);
    let whole = batch.logits(other.as_mut(), vocab);
    let mut from = 0;
    for to in ends.iter().copied() {
        let part = |width: usize, from: usize, to: usize| -> Vec<usize> {
            (0..SEQUENCES)
                .flat_map(|sequence| sequence * width + from..sequence * width + to)
                .collect()
        };
        let ids: Vec<u32> = part(300, from, to).into_iter().map(|i| batch.ids[i]).collect();
        let mask: Vec<u8> = part(300, 0, to).into_iter().map(|i| batch.mask[i]).collect();
        let mut logits = vec![f32::NAN; SEQUENCES * vocab];
        let pass = TokenBatch {
            ids: &ids,
            mask: &mask,
            batch: SEQUENCES,
            length: to - from,
            cache: if from == 0 { Cache::Start } else { Cache::Continue },
        };
        let mut output = ForwardOutput {
            logits: Some((LogitRows::Last, &mut logits)),
            ..ForwardOutput::default()
        };
        other.forward(pass, &mut output).unwrap();
        let rows = part(300, to - 1, to);
        let truth: Vec<f32> = rows
            .iter()
            .flat_map(|row| &whole[row * vocab..][..vocab])
            .copied()
            .collect();
        let seen: Vec<u8> = rows.iter().map(|row| batch.mask[*row]).collect();
        let (worst, _) = distance(&logits, &truth, &seen, vocab);
        assert!(worst <= tolerance, "{mode}, {precision}, up to {to}: {worst:e}");
        from = to;
    }
}
