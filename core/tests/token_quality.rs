//! Every token-level statistic against numpy and scipy on stored logits; `fixtures/token_quality/generate.py` made them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, ops::Range, path::Path};

use qbench_core::{
    quality::{
        SequenceInfo, SequencePair, SlidingNll, TokenAccumulator, TokenComparison, window_nll, windows,
    },
    results::{Distribution, TokenQuality},
};
use serde_json::Value;

/// Sums of some hundred f64 in another order, and another library's exp and ln: relative to the value, or to 1.
const ROUNDING: f64 = 1e-12;

/// An end of the bootstrap interval moves by this share of the half-width from seed to seed: some per cent at 9999
/// resamples of four genomes, far out in the tails.
const RESAMPLING: f64 = 0.1;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/token_quality")
        .join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap()
}

/// A stored sequence.
struct Sequence {
    /// Logits of the reference and of the mode, `[tokens, vocabulary]`.
    logits: [Vec<f32>; 2],
    ids: Vec<u32>,
    genome: String,
    gc: Option<f64>,
    bases: usize,
}

fn vocabulary(expected: &Value) -> usize {
    expected["vocabulary"].as_u64().unwrap() as usize
}

fn sequences(expected: &Value) -> Vec<Sequence> {
    let bytes = fs::read(fixture("logits.f32")).unwrap();
    let mut values = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    let described = expected["sequences"].as_array().unwrap();
    let read = described.iter().map(|sequence| {
        let ids: Vec<u32> = serde_json::from_value(sequence["ids"].clone()).unwrap();
        let mut side = || values.by_ref().take(ids.len() * vocabulary(expected)).collect();
        Sequence {
            logits: [side(), side()],
            ids,
            genome: sequence["genome"].as_str().unwrap().to_owned(),
            gc: sequence["gc"].as_f64(),
            bases: sequence["bases"].as_u64().unwrap() as usize,
        }
    });
    let read = read.collect();
    assert!(values.next().is_none());
    read
}

/// The statistics, with `positions_a_call` positions compared at a time.
fn evaluate(expected: &Value, positions_a_call: usize) -> TokenQuality {
    evaluate_with(expected, |sequence| {
        let [reference, mode] = &sequence.logits;
        let pair = SequencePair::new(reference, mode, &sequence.ids, vocabulary(expected)).unwrap();
        let positions = (0..sequence.ids.len())
            .step_by(positions_a_call)
            .flat_map(|start| pair.compare(start..sequence.ids.len().min(start + positions_a_call)))
            .collect();
        (positions, None)
    })
}

fn evaluate_with(
    expected: &Value,
    compare: impl Fn(&Sequence) -> (Vec<TokenComparison>, Option<SlidingNll>),
) -> TokenQuality {
    let directory = tempfile::tempdir().unwrap();
    let mut accumulator = TokenAccumulator::new(directory.path());
    for (index, sequence) in sequences(expected).iter().enumerate() {
        let info = SequenceInfo {
            index,
            genome: &sequence.genome,
            gc: sequence.gc,
            bases: sequence.bases,
        };
        let (positions, sliding) = compare(sequence);
        accumulator.add(info, &positions, sliding).unwrap();
    }
    accumulator.finish(1).unwrap().quality
}

#[track_caller]
fn assert_close(name: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (found - expected).abs() <= ROUNDING * expected.abs().max(1.0),
        "{name}: {found:?}, expected {expected:?}"
    );
}

#[track_caller]
fn assert_distribution(name: &str, found: &Distribution, expected: &Value) {
    assert_close(name, found.mean.value, &expected["mean"]);
    for (found, expected) in found
        .quantiles()
        .iter()
        .zip(expected["quantiles"].as_array().unwrap())
    {
        assert_close(name, found.value, expected);
    }
}

#[test]
fn statistics_are_numpys_and_scipys() {
    let expected = expected();
    let found = evaluate(&expected, 1000);
    assert_distribution("kl", &found.kl, &expected["kl"]);
    assert_distribution("kl_reverse", &found.kl_reverse, &expected["kl_reverse"]);
    assert_distribution("js", &found.js, &expected["js"]);
    assert_distribution("delta_p", &found.delta_p, &expected["delta_p"]);
    let statistics = &expected["statistics"];
    for (name, value) in [
        ("kl", found.kl.mean.value),
        ("delta_p_rms", found.delta_p_rms.value),
        ("same_top1", found.same_top1.value),
        ("perplexity", found.perplexity.value),
        ("ln_perplexity_ratio", found.ln_perplexity_ratio.value),
        ("next_token_accuracy", found.next_token_accuracy.value),
        ("accuracy_difference", found.accuracy_difference.value),
        ("bits_per_base", found.bits_per_base.value),
    ] {
        assert_close(name, value, &statistics[name]);
    }
    for (name, value) in [
        ("same_top5", found.same_top5.value),
        ("reference_perplexity", found.reference_perplexity),
        ("reference_accuracy", found.reference_accuracy),
        (
            "ln_perplexity_ratio_standard_error",
            found.ln_perplexity_ratio_standard_error,
        ),
        ("nll_correlation", found.nll_correlation),
        ("mcnemar_p", found.mcnemar_p),
        ("kl_macro", found.kl_macro.value),
        ("perplexity_macro", found.perplexity_macro.value),
        ("only_mode_correct", found.only_mode_correct as f64),
        ("only_reference_correct", found.only_reference_correct as f64),
    ] {
        assert_close(name, value, &expected[name]);
    }
}

/// Logits of a model that sees a window only: the mean of the stored ones from the window's start on, in f32.
fn logits_of_window(logits: &[f32], window: Range<usize>, vocabulary: usize) -> Vec<f32> {
    let mut sums = vec![0.0; vocabulary];
    let mut seen = Vec::new();
    for (count, row) in logits
        .chunks(vocabulary)
        .take(window.end)
        .skip(window.start)
        .enumerate()
    {
        for (sum, &logit) in sums.iter_mut().zip(row) {
            *sum += f64::from(logit);
        }
        seen.extend(sums.iter().map(|sum| (sum / (count + 1) as f64) as f32));
    }
    seen
}

#[test]
fn sliding_perplexity_is_numpys() {
    let expected = expected();
    let vocabulary = vocabulary(&expected);
    let sliding = &expected["sliding"];
    let of = |name: &str| sliding[name].as_u64().unwrap() as usize;
    let (context_len, stride) = (of("context_len"), of("stride"));
    let found = evaluate_with(&expected, |sequence| {
        let mut sums = [0.0; 2];
        let mut predicted = 0;
        for window in windows(sequence.ids.len(), context_len, stride) {
            let start = window.tokens.start;
            let inside = window.predicted.start - start..window.predicted.end - start;
            predicted += inside.len() as u64;
            for (sum, logits) in sums.iter_mut().zip(&sequence.logits) {
                let logits = logits_of_window(logits, window.tokens.clone(), vocabulary);
                let ids = &sequence.ids[window.tokens.clone()];
                *sum += window_nll(&logits, ids, inside.clone(), vocabulary)
                    .unwrap()
                    .iter()
                    .sum::<f64>();
            }
        }
        let [reference_nll, nll] = sums;
        let [reference, mode] = &sequence.logits;
        let pair = SequencePair::new(reference, mode, &sequence.ids, vocabulary).unwrap();
        let sliding = SlidingNll {
            predicted,
            nll,
            reference_nll,
        };
        (pair.compare(0..sequence.ids.len()), Some(sliding))
    });
    let found = found.sliding.unwrap();
    assert_eq!(found.predicted as usize, of("predicted"));
    assert_close("perplexity", found.perplexity.value, &sliding["perplexity"]);
    assert_close(
        "reference",
        found.reference_perplexity,
        &sliding["reference_perplexity"],
    );
    assert!(
        found
            .perplexity
            .interval
            .unwrap()
            .contains(found.perplexity.value)
    );
}

#[test]
fn groups_are_numpys() {
    let expected = expected();
    let found = evaluate(&expected, 1000);
    let confidence = expected["by_confidence"].as_array().unwrap();
    assert_eq!(found.by_confidence.len(), confidence.len());
    for (group, expected) in found.by_confidence.iter().zip(confidence) {
        assert_eq!(group.positions, expected["positions"].as_u64().unwrap());
        assert_close(&group.label, group.kl.value, &expected["kl"]);
    }
    let gc = expected["by_gc"].as_array().unwrap();
    for (group, expected) in found.by_gc.iter().zip(gc) {
        assert_eq!(group.label, expected["label"].as_str().unwrap());
        assert_close(&group.label, group.kl.value, &expected["kl"]);
    }
    assert_eq!((found.by_gc.len(), found.by_genome.len()), (gc.len(), 4));
}

#[test]
fn the_interval_is_that_of_numpys_bootstrap() {
    let expected = expected();
    let interval = evaluate(&expected, 1000).kl.mean.interval.unwrap();
    let [low, high]: [f64; 2] = serde_json::from_value(expected["kl_interval"].clone()).unwrap();
    let tolerance = RESAMPLING * (high - low) / 2.0;
    assert!(
        (interval.low - low).abs() < tolerance && (interval.high - high).abs() < tolerance,
        "{interval:?}, expected {low} to {high}"
    );
}

#[test]
fn intervals_of_quantiles_are_those_of_numpys_bootstrap() {
    let expected = expected();
    let found = evaluate(&expected, 1000);
    for (name, found) in [("kl", &found.kl), ("delta_p", &found.delta_p)] {
        let allowed = expected["quantile_intervals"][name].as_array().unwrap();
        let quantiles = found.quantiles();
        assert_eq!(quantiles.map(|quantile| quantile.interval.is_some()), {
            let mut inner = [true; Distribution::PROBABILITIES.len()];
            (inner[0], inner[inner.len() - 1]) = (false, false);
            inner
        });
        for (quantile, ends) in quantiles[1..].iter().zip(allowed) {
            let interval = quantile.interval.unwrap();
            // Each end lies between the quantiles at the resampled share ± what it moves by from seed to seed.
            let [low, high]: [[f64; 2]; 2] = serde_json::from_value(ends.clone()).unwrap();
            for (end, [least, most]) in [(interval.low, low), (interval.high, high)] {
                assert!(
                    (least - ROUNDING..=most + ROUNDING).contains(&end),
                    "{name}: {interval:?}, expected {low:?} to {high:?}"
                );
            }
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_how_positions_are_shared_out() {
    let expected = expected();
    let whole = evaluate(&expected, 1000);
    for positions_a_call in [1, 7, 64] {
        assert_eq!(evaluate(&expected, positions_a_call), whole);
    }
}
