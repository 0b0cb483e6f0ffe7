//! One position's two next-token distributions.
//!
//! With `p = softmax(r)` and `q = softmax(m)`, KL(p ‖ q) = Σ pᵢ·(ln pᵢ − ln qᵢ). Both logits are shifted by their own
//! maximum, r′ = r − max r, so that ln pᵢ = r′ᵢ − ln Σ exp r′ and nothing overflows; then
//! KL = Σ exp(r′ᵢ)·(r′ᵢ − m′ᵢ) / Σ exp r′ − ln Σ exp r′ + ln Σ exp m′, one pass over the row. All sums are f64.

/// What one position contributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// KL(reference ‖ mode) in nats.
    pub(super) kl: f64,
    pub(super) reference: Distribution,
    pub(super) mode: Distribution,
}

/// A softmax over the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution {
    /// The most likely token; the first of equals.
    pub(super) top: usize,
    /// ln Σ exp of the logits, in f64.
    log_sum_exp: f64,
}

impl Distribution {
    /// Negative log likelihood of a token with this logit, in nats.
    pub(super) fn nll(&self, logit: f32) -> f64 {
        self.log_sum_exp - f64::from(logit)
    }
}

/// Compares two rows of finite logits of the same length.
pub(super) fn compare(reference: &[f32], mode: &[f32]) -> Position {
    let (reference_top, reference_max) = maximum(reference);
    let (mode_top, mode_max) = maximum(mode);
    let (mut reference_sum, mut mode_sum, mut weighted) = (0.0, 0.0, 0.0);
    for (&r, &m) in reference.iter().zip(mode) {
        let r = f64::from(r) - reference_max;
        let m = f64::from(m) - mode_max;
        let weight = r.exp();
        reference_sum += weight;
        mode_sum += m.exp();
        weighted += weight * (r - m);
    }
    let (reference_log, mode_log) = (reference_sum.ln(), mode_sum.ln());
    Position {
        kl: weighted / reference_sum - reference_log + mode_log,
        reference: Distribution {
            top: reference_top,
            log_sum_exp: reference_max + reference_log,
        },
        mode: Distribution {
            top: mode_top,
            log_sum_exp: mode_max + mode_log,
        },
    }
}

fn maximum(row: &[f32]) -> (usize, f64) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let top = row.iter().position(|&logit| logit == largest).unwrap_or(0);
    (top, f64::from(largest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quality::test_values::assert_close;

    /// p = (1/2, 1/2), q = softmax(0, 2): KL = ln((1 + e²)/2) − 1 = ln cosh 1; nll of the mode's tokens from the same sum.
    #[test]
    fn two_tokens_by_hand() {
        let position = compare(&[0.0, 0.0], &[0.0, 2.0]);
        assert_close(position.kl, 1.0_f64.cosh().ln());
        assert_close(position.mode.nll(2.0), (1.0 + (-2.0_f64).exp()).ln());
        assert_close(position.reference.nll(0.0), 2.0_f64.ln());
        assert_eq!((position.reference.top, position.mode.top), (0, 1));
    }

    /// The other way round: KL = Σ q ln(q / (1/2)) = ln 2 − entropy of q.
    #[test]
    fn the_reference_comes_first() {
        let q = 1.0 / (1.0 + (-2.0_f64).exp());
        let entropy = -q * q.ln() - (1.0 - q) * (1.0 - q).ln();
        assert_close(compare(&[0.0, 2.0], &[0.0, 0.0]).kl, 2.0_f64.ln() - entropy);
    }

    #[test]
    fn large_logits_neither_overflow_nor_lose_digits() {
        let row = [1.25, -3.5, 0.75, 2.0];
        let other = [1.0, -3.0, 0.5, 2.25];
        let shifted = row.map(|logit| logit + 65536.0);
        assert_eq!(compare(&row, &other).kl, compare(&shifted, &other).kl);
        // All of p on the first token, none of q: KL is the difference of the mode's logits.
        assert_close(compare(&[3e38, -3e38], &[0.0, 1e9]).kl, 1e9);
    }

    proptest! {
        /// KL is not negative and is zero between equal rows, up to the rounding of sums of f64.
        #[test]
        fn kl_is_a_divergence(rows in prop::collection::vec((-40.0_f32..40.0, -40.0_f32..40.0), 1..200)) {
            const ROUNDING: f64 = 1e-12;
            let (reference, mode): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            prop_assert!(compare(&reference, &mode).kl >= -ROUNDING);
            prop_assert_eq!(compare(&reference, &reference).kl, 0.0);
        }
    }
}
