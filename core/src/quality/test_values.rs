//! Inputs that Rust and numpy form alike: small fractions of powers of two, exact in f32.

/// Sums of at most some thousand f64 in another order than numpy's, and another library's exp and ln, differ by this at
/// most, relative to the value or to 1.
const REFERENCE_TOLERANCE: f64 = 1e-12;

pub(super) const LOGITS_VOCABULARY: usize = 6;

/// Logits `[tokens, 6]` of a reference and a mode: with i the vocabulary's index and t the position,
/// r = ((7i + 3t + 2s) mod 11)/4 and m = r + ((5i + 2t + 3s) mod 7 − 3)/4 for sequence s.
pub(super) fn logits(sequence: usize, tokens: usize) -> (Vec<f32>, Vec<f32>) {
    (0..tokens)
        .flat_map(|t| (0..LOGITS_VOCABULARY).map(move |i| (t, i)))
        .map(|(t, i)| {
            let reference = ((7 * i + 3 * t + 2 * sequence) % 11) as f32 / 4.0;
            (
                reference,
                reference + (((5 * i + 2 * t + 3 * sequence) % 7) as f32 - 3.0) / 4.0,
            )
        })
        .unzip()
}

/// Pooled vectors of 64 values: r = ((37i + 11s) mod 101)/8 − 6 and m = r + ((53i + s) mod 17 − 8)/4; some of the
/// mode's values lie outside the reference's range.
pub(super) fn pooled(sequence: usize) -> (Vec<f32>, Vec<f32>) {
    (0..64)
        .map(|i| {
            let reference = ((37 * i + 11 * sequence) % 101) as f32 / 8.0 - 6.0;
            (
                reference,
                reference + (((53 * i + sequence) % 17) as f32 - 8.0) / 4.0,
            )
        })
        .unzip()
}

#[track_caller]
pub(super) fn assert_close(found: f64, expected: f64) {
    let error = (found - expected).abs();
    assert!(
        error <= REFERENCE_TOLERANCE * expected.abs().max(1.0),
        "found {found:?}, expected {expected:?}"
    );
}
