//! The whole chain against transformers and bitsandbytes: checkpoint, modes plugin, backend plugin, through the host's
//! loader, for mistral-tiny and what the real libraries computed for it (fixtures/bitsandbytes/README.md).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::PathBuf, sync::Arc};

use qbench::plugins::load;
use qbench_core::{
    checkpoint::{Checkpoint, ModulePolicy, StoredWeights},
    quality::{SequenceInfo, SequencePair, TokenAccumulator},
};
use qbench_sdk::{
    DType, Model, Options,
    backend::{Cache, ForwardOutput, LoadRequest, LogitRows, TokenBatch},
};
use qbench_tests::{libtorch, plugin, repository, second_opinion};
use safetensors::{Dtype, SafeTensors};

const VOCAB: usize = 4096;
const LENGTH: usize = 128;

/// Largest difference of a logit, relative to the largest logit: transformers' own attention implementations differ by
/// a fiftieth of this with float weights, and by a seventh with int8, where a code may round to the other side.
const LOGITS: f64 = 1e-5;
const LOGITS_INT8: f64 = 5e-3;
/// Log-sum-exp, the next token's logit and the two largest, absolute.
const SCALARS: f64 = 1e-4;
/// The same for int8, with the constant of bitsandbytes' CPU code.
const SCALARS_INT8: f64 = 5e-2;
/// And with the right one. Its is off by 1.8e-5 (docs/numerics.md), which moves single logits by up to 0.081, where codes of
/// a later layer round to the other side.
const SCALARS_RIGHT_INT8: f64 = 0.1;
/// KL, share of the same top-1 token and perplexity, relative. One token of the 444 that has another top-1 is 2e-3.
const STATISTICS: f64 = 1e-3;
/// The same for int8, where one rounding of an activation more or less moves the mean KL by some tenths of a per cent and
/// that of a token, of which the largest and the median are, by more.
const STATISTICS_INT8: f64 = 0.03;
/// KL of one implementation's f32 logits against another's, absolute: transformers' two attention implementations
/// differ by 5e-12 at the most in expected.json, `standard.f32.eager_attention`.
const KL_OF_ROUNDING: f64 = 1e-11;

fn fixture(name: &str) -> PathBuf {
    repository()
        .join("tests/fixtures/bitsandbytes/mistral-tiny")
        .join(name)
}

/// A backend's id and its plugin.
type Backend = (&'static str, PathBuf);

/// The backends that are held to this: cpu and, where libtorch is set up, libtorch on the CPU.
fn backends() -> Vec<Backend> {
    let mut backends = vec![("cpu", plugin("libqbench_cpu.so"))];
    backends.extend(libtorch().map(|folder| ("libtorch", folder.join("libqbench_libtorch.so"))));
    backends
}

fn model(backend: &Backend, mode: &str) -> Box<dyn Model> {
    model_with(backend, mode, "")
}

/// A model of a backend with options.
fn model_with((id, file): &Backend, mode: &str, options: &str) -> Box<dyn Model> {
    let options = Options::parse(options).unwrap();
    let scheme = load(&plugin("libqbench_modes.so"))
        .unwrap()
        .open_scheme(mode, &Options::none())
        .unwrap();
    let backend = load(file).unwrap().open_backend(id, &options).unwrap();
    let checkpoint = Arc::new(Checkpoint::open(fixture("config.json").parent().unwrap()).unwrap());
    let weights = StoredWeights::new(
        checkpoint.clone(),
        Arc::from(scheme),
        &ModulePolicy::new(&[], &[]).unwrap(),
        DType::F32,
        2,
    );
    backend
        .load(LoadRequest {
            config_json: checkpoint.config_text(),
            weights: Arc::new(weights.unwrap()),
            device: "cpu",
            compute: DType::F32,
            threads: 2,
        })
        .unwrap()
}

/// The fixture's tensors.
struct Expected(Vec<u8>);

impl Expected {
    fn read() -> Self {
        Self(fs::read(fixture("expected.safetensors")).unwrap())
    }

    fn of(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let (fours, twos) = (view.data().as_chunks::<4>().0, view.data().as_chunks::<2>().0);
        match view.dtype() {
            Dtype::F32 => fours
                .iter()
                .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
                .collect(),
            Dtype::I32 => fours
                .iter()
                .map(|bytes| f64::from(i32::from_le_bytes(*bytes)))
                .collect(),
            Dtype::I16 => twos
                .iter()
                .map(|bytes| f64::from(i16::from_le_bytes(*bytes)))
                .collect(),
            Dtype::U8 => view.data().iter().map(|byte| f64::from(*byte)).collect(),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn ids(&self) -> Vec<u32> {
        self.of("input_ids").iter().map(|id| *id as u32).collect()
    }

    fn mask(&self) -> Vec<u8> {
        self.of("attention_mask")
            .iter()
            .map(|token| *token as u8)
            .collect()
    }

    /// Rows of the tokens in the padded batch, sequence after sequence.
    fn tokens(&self) -> Vec<usize> {
        let mask = self.mask();
        (0..mask.len()).filter(|row| mask[*row] == 1).collect()
    }

    fn json() -> serde_json::Value {
        serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap()
    }

    fn mean_kl_and_perplexity(variant: &str) -> (f64, f64) {
        let metrics = &Self::json()["metrics_vs_standard_f32"][variant];
        (
            metrics["kl_mean"].as_f64().unwrap(),
            metrics["ppl"].as_f64().unwrap(),
        )
    }

    /// What the real libraries gave for a mode against `standard.f32`.
    fn statistics(&self, variant: &str) -> Statistics {
        let json = Self::json();
        // `standard.f32` against itself stands nowhere but among the variants.
        if variant == "standard.f32" {
            let perplexity = json["variants"][variant]["ppl"].as_f64().unwrap();
            return Statistics {
                kl: [0.0; 3],
                same_top1: 1.0,
                perplexity,
            };
        }
        let metrics = &json["metrics_vs_standard_f32"][variant];
        let number = |name: &str| metrics[name].as_f64().unwrap();
        let median = self.median_kl(variant, number("kl_median"));
        Statistics {
            kl: [number("kl_mean"), median, number("kl_max")],
            same_top1: number("top1_agreement"),
            perplexity: number("ppl"),
        }
    }

    /// The median of the stored KL of each token. expected.json has torch's, which is the `lower` of the two in the
    /// middle; numpy's, and qbench's, is the mean of both.
    fn median_kl(&self, variant: &str, lower: f64) -> f64 {
        let mut tokens = self.of(&format!("{variant}.kl_vs_standard_f32"));
        tokens.sort_by(f64::total_cmp);
        let middle = tokens.len() / 2;
        assert_eq!(tokens.len() % 2, 0);
        near(
            tokens[middle - 1],
            lower,
            f64::from(f32::EPSILON) * lower,
            "the lower median",
        );
        f64::midpoint(tokens[middle - 1], tokens[middle])
    }
}

/// Statistics of a mode against the reference.
struct Statistics {
    /// Mean, median, maximum over all tokens.
    kl: [f64; 3],
    same_top1: f64,
    perplexity: f64,
}

fn forward(model: &mut dyn Model, ids: &[u32], mask: &[u8], batch: usize) -> Vec<f32> {
    let mut logits = vec![f32::NAN; ids.len() * VOCAB];
    let batch = TokenBatch {
        ids,
        mask,
        batch,
        length: ids.len() / batch,
        cache: Cache::None,
    };
    let mut output = ForwardOutput {
        logits: Some((LogitRows::All, &mut logits)),
        ..ForwardOutput::default()
    };
    model.forward(batch, &mut output).unwrap();
    logits
}

/// Logits of the stored, right-padded batch in one call.
fn whole_batch(backend: &Backend, mode: &str, expected: &Expected) -> Vec<f32> {
    of_batch(model(backend, mode).as_mut(), expected)
}

fn of_batch(model: &mut dyn Model, expected: &Expected) -> Vec<f32> {
    forward(model, &expected.ids(), &expected.mask(), 4)
}

/// The same batch, one unpadded sequence a call; rows of padding stay zero.
fn per_sequence(backend: &Backend, mode: &str, expected: &Expected) -> Vec<f32> {
    let (ids, mask) = (expected.ids(), expected.mask());
    let mut model = model(backend, mode);
    let mut logits = vec![0.0; ids.len() * VOCAB];
    for sequence in 0..4 {
        let start = sequence * LENGTH;
        let length: usize = mask[start..start + LENGTH]
            .iter()
            .map(|&token| usize::from(token))
            .sum();
        let values = forward(model.as_mut(), &ids[start..start + length], &vec![1; length], 1);
        logits[start * VOCAB..(start + length) * VOCAB].copy_from_slice(&values);
    }
    logits
}

fn row(logits: &[f32], index: usize) -> &[f32] {
    &logits[index * VOCAB..(index + 1) * VOCAB]
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().fold(f32::NEG_INFINITY, |max, value| max.max(*value));
    let sum: f64 = row.iter().map(|value| f64::from(value - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// What qbench makes of logits `[4, LENGTH, VOCAB]` of both sides.
fn statistics(reference: &[f32], logits: &[f32], expected: &Expected) -> Statistics {
    let directory = tempfile::tempdir().unwrap();
    let mut accumulator = TokenAccumulator::new(directory.path());
    let (ids, mask) = (expected.ids(), expected.mask());
    for index in 0..4 {
        let start = index * LENGTH;
        let length: usize = mask[start..start + LENGTH]
            .iter()
            .map(|&token| usize::from(token))
            .sum();
        let values = start * VOCAB..(start + length) * VOCAB;
        let pair = SequencePair::new(
            &reference[values.clone()],
            &logits[values],
            &ids[start..start + length],
            VOCAB,
        )
        .unwrap();
        let info = SequenceInfo {
            index,
            genome: "golden",
            gc: None,
            bases: length,
        };
        accumulator.add(info, &pair.compare(0..length), None).unwrap();
    }
    let quality = accumulator.finish(1).unwrap().quality;
    Statistics {
        kl: [quality.kl.mean.value, quality.kl.median, quality.kl.max],
        same_top1: quality.same_top1.value,
        perplexity: quality.perplexity.value,
    }
}

/// Compares what qbench finds with what the real libraries gave.
fn check_statistics(variant: &str, found: &Statistics, expected: &Statistics, tolerance: f64) {
    for (name, (found, expected)) in ["mean", "median", "largest"]
        .iter()
        .zip(found.kl.iter().zip(expected.kl))
    {
        let tolerance = tolerance * expected + KL_OF_ROUNDING;
        near(*found, expected, tolerance, &format!("{variant}, {name} KL"));
    }
    for (name, found, expected) in [
        ("same top-1", found.same_top1, expected.same_top1),
        ("perplexity", found.perplexity, expected.perplexity),
    ] {
        near(
            found,
            expected,
            tolerance * expected,
            &format!("{variant}, {name}"),
        );
    }
}

/// The token after the one in `row`, where its sequence has one.
fn next_token(row: usize, ids: &[u32], mask: &[u8]) -> Option<u32> {
    let next = row + 1;
    (!next.is_multiple_of(LENGTH) && mask[next] == 1).then(|| ids[next])
}

fn near(value: f64, truth: f64, tolerance: f64, what: &str) {
    assert!(
        (value - truth).abs() <= tolerance,
        "{what}: {value} is not {truth} within {tolerance}"
    );
}

/// Stored logits of one or two positions, relative to the largest.
fn check_logits(variant: &str, logits: &[f32], expected: &Expected, tolerance: f64) {
    let sample = expected.of(&format!("{variant}.logits_sample"));
    let largest = sample.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
    let positions = expected.of("sample_positions");
    for (position, truth) in positions.chunks(2).zip(sample.chunks(VOCAB)) {
        let at = position[0] as usize * LENGTH + position[1] as usize;
        for (value, truth) in row(logits, at).iter().zip(truth) {
            near(
                f64::from(*value),
                *truth,
                tolerance * largest,
                &format!("{variant}, a logit of row {at}"),
            );
        }
    }
}

/// What is stored for every token.
fn check_every_token(variant: &str, logits: &[f32], expected: &Expected, tolerance: f64) {
    let (ids, mask) = (expected.ids(), expected.mask());
    let of = |name: &str| expected.of(&format!("{variant}.{name}"));
    let (lse, next_logit, top) = (of("lse"), of("next_logit"), of("top2_logits"));
    for (index, token) in expected.tokens().into_iter().enumerate() {
        let row = row(logits, token);
        near(
            log_sum_exp(row),
            lse[index],
            tolerance,
            &format!("{variant}, lse of row {token}"),
        );
        if let Some(next) = next_token(token, &ids, &mask) {
            let value = f64::from(row[next as usize]);
            near(
                value,
                next_logit[index],
                tolerance,
                &format!("{variant}, next logit of row {token}"),
            );
        }
        let mut sorted = row.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for rank in 0..2 {
            let what = format!("{variant}, logit {rank} of row {token}");
            near(f64::from(sorted[rank]), top[2 * index + rank], tolerance, &what);
        }
    }
}

#[test]
fn float_and_4bit_modes_are_transformers_and_bitsandbytes() {
    backends().iter().for_each(float_and_4bit_modes);
}

#[test]
#[ignore = "builds plugins/candle"]
fn float_and_4bit_modes_are_transformers_and_bitsandbytes_in_the_second_opinion() {
    float_and_4bit_modes(&("second_opinion", second_opinion().to_path_buf()));
}

fn float_and_4bit_modes(backend: &Backend) {
    let expected = Expected::read();
    let reference = whole_batch(backend, "standard", &expected);
    for mode in ["standard", "4bit_nf4", "4bit_fp4", "4bit_nf4_double"] {
        let variant = format!("{mode}.f32");
        let logits = whole_batch(backend, mode, &expected);
        check_logits(&variant, &logits, &expected, LOGITS);
        check_every_token(&variant, &logits, &expected, SCALARS);
        let found = statistics(&reference, &logits, &expected);
        check_statistics(&variant, &found, &expected.statistics(&variant), STATISTICS);
    }
}

#[test]
fn int8_is_bitsandbytes_for_a_batch_and_for_each_sequence() {
    backends().iter().for_each(int8);
}

/// The libtorch backend has the library's constant on request.
#[test]
fn int8_with_the_constant_of_bitsandbytes_is_bitsandbytes_at_every_token() {
    let expected = Expected::read();
    for backend in backends().iter().filter(|(id, _)| *id == "libtorch") {
        let mut model = model_with(backend, "8bit", "kernels=bitsandbytes-cpu");
        let batch = of_batch(model.as_mut(), &expected);
        check_logits("8bit.f32", &batch, &expected, LOGITS_INT8);
        check_every_token("8bit.f32", &batch, &expected, SCALARS_INT8);
    }
}

fn int8(backend: &Backend) {
    let expected = Expected::read();
    let reference = whole_batch(backend, "standard", &expected);
    let batch = whole_batch(backend, "8bit", &expected);
    check_logits("8bit.f32", &batch, &expected, LOGITS_INT8);
    check_every_token("8bit.f32", &batch, &expected, SCALARS_RIGHT_INT8);
    let found = statistics(&reference, &batch, &expected);
    check_statistics(
        "8bit.f32",
        &found,
        &expected.statistics("8bit.f32"),
        STATISTICS_INT8,
    );

    // No KL of each token is stored for single sequences.
    let single = per_sequence(backend, "8bit", &expected);
    let found = statistics(&reference, &single, &expected);
    let (kl, perplexity) = Expected::mean_kl_and_perplexity("8bit.f32.per_sequence");
    near(
        found.kl[0],
        kl,
        STATISTICS_INT8 * kl,
        "8bit.f32.per_sequence, mean KL",
    );
    near(
        found.perplexity,
        perplexity,
        STATISTICS * perplexity,
        "8bit.f32.per_sequence, perplexity",
    );
    assert!(batch != single, "outlier columns depend on the call");
}
