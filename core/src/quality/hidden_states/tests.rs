use serde_json::Value;

use super::*;
use crate::quality::test_values::pooled;
use crate::results::HiddenStateQuality;

/// Width of a bucket of the quantiles, relative to the values in it.
const RESOLUTION: f64 = 1.0 / 1024.0;

/// Sums of 128 values in another order than numpy's.
const ROUNDING: f64 = 1e-12;

const WIDTH: usize = 16;

/// Two sequences of four tokens; the second state is that of the other sequence.
fn report(threads: usize) -> Layers {
    let mut accumulator = HiddenStatesAccumulator::new(2, WIDTH);
    for sequence in [0, 1] {
        let ((reference, mode), (other, other_mode)) = (pooled(sequence), pooled(1 - sequence));
        accumulator.begin_sequence(reference.len() / WIDTH);
        accumulator
            .add(0, &[reference, other], &[mode, other_mode], threads)
            .unwrap();
    }
    accumulator.finish()
}

#[test]
fn metrics_and_statistics_are_numpys_and_scipys() {
    let text = include_str!("../../../tests/fixtures/biology/expected.json");
    let expected = &serde_json::from_str::<Value>(text).unwrap()["hidden_states"];
    let report = report(1);
    assert_eq!((report.sequences, report.tokens), (2, 8));
    let close = |found: &Value, expected: &Value, tolerance: f64, what: &str| {
        let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
        assert!(
            (found - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{what}: {found} {expected}"
        );
    };
    let quality = serde_json::to_value(&report.hidden_states[0]).unwrap();
    for name in [
        "cosine_mean",
        "cosine_min",
        "mse",
        "snr_db",
        "max_inf_norm",
        "reference_max_inf_norm",
    ] {
        close(&quality[name], &expected[name], ROUNDING, name);
    }
    close(
        &quality["kurtosis"],
        &expected["mode"]["kurtosis"],
        ROUNDING,
        "kurtosis",
    );
    close(
        &quality["reference_kurtosis"],
        &expected["reference"]["kurtosis"],
        ROUNDING,
        "kurtosis",
    );
    for (place, side) in ["reference", "mode"].into_iter().enumerate() {
        let found = serde_json::to_value(&report.distributions[place]).unwrap();
        for name in ["mean", "std", "min", "max", "skewness", "kurtosis"] {
            close(&found[name], &expected[side][name], ROUNDING, name);
        }
        for name in ["median", "q25", "q75"] {
            close(&found[name], &expected[side][name], RESOLUTION, name);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let (one, many) = (report(1), report(7));
    assert_eq!(one, many);
}

#[test]
fn equal_states_have_an_infinite_snr() {
    let (reference, _) = pooled(0);
    let mut accumulator = HiddenStatesAccumulator::new(1, WIDTH);
    accumulator
        .add(
            0,
            std::slice::from_ref(&reference),
            std::slice::from_ref(&reference),
            1,
        )
        .unwrap();
    let layers = accumulator.finish();
    let quality = &layers.hidden_states[0];
    assert_eq!((quality.snr_db, quality.mse), (f64::INFINITY, 0.0));
    assert!((quality.cosine_min.unwrap() - 1.0).abs() < ROUNDING);
}

#[test]
fn tokens_that_are_not_finite_are_left_out_and_counted() {
    let (reference, mut mode) = pooled(0);
    mode[5] = f32::NAN;
    mode[6] = f32::INFINITY;
    let mut with = HiddenStatesAccumulator::new(1, WIDTH);
    with.add(
        0,
        std::slice::from_ref(&reference),
        std::slice::from_ref(&mode),
        1,
    )
    .unwrap();
    let mut without = HiddenStatesAccumulator::new(1, WIDTH);
    without
        .add(0, &[reference[WIDTH..].to_vec()], &[mode[WIDTH..].to_vec()], 1)
        .unwrap();
    let with = with.finish();
    let expected = HiddenStateQuality {
        non_finite: 2,
        ..without.finish().hidden_states[0].clone()
    };
    assert_eq!(with.hidden_states[0], expected);
}

#[test]
fn states_of_another_length_are_refused() {
    let mut accumulator = HiddenStatesAccumulator::new(1, WIDTH);
    assert!(accumulator.add(0, &[vec![0.0; 32]], &[vec![0.0; 16]], 1).is_err());
    assert!(accumulator.add(0, &[vec![0.0; 17]], &[vec![0.0; 17]], 1).is_err());
}
