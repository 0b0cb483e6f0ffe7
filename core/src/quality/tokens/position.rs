//! One position's two next-token distributions.
//!
//! With `p = softmax(r)` and `q = softmax(m)`, KL(p ‖ q) = Σ pᵢ·(ln pᵢ − ln qᵢ). Both logits are shifted by their own
//! maximum, r′ = r − max r, so that ln pᵢ = r′ᵢ − ln Σ exp r′ and nothing overflows; then
//! KL = Σ exp(r′ᵢ)·(r′ᵢ − m′ᵢ) / Σ exp r′ − ln Σ exp r′ + ln Σ exp m′, one pass over the row; the reverse alike.
//!
//! JS = ½ Σ pᵢ·ln(pᵢ/aᵢ) + ½ Σ qᵢ·ln(qᵢ/aᵢ) with a = (p + q)/2 takes a second pass. With h and l the larger and the
//! smaller of pᵢ and qᵢ and s = l/h, a term is ½·(l·ln s − (h + l)·ln((1 + s)/2)), where ln s = −|ln pᵢ − ln qᵢ| is
//! known already; it is exactly 0 for equals, and nothing is divided by what can vanish. All sums are f64.

/// Tokens that count for "same top-5".
pub(super) const TOP: usize = 5;

/// What one position contributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// KL(reference ‖ mode) in nats.
    pub(super) kl: f64,
    /// KL(mode ‖ reference) in nats.
    pub(super) kl_reverse: f64,
    /// Jensen–Shannon divergence in nats, at most ln 2.
    pub(super) js: f64,
    pub(super) reference: Distribution,
    pub(super) mode: Distribution,
}

/// A softmax over the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution {
    /// The most likely tokens in falling order, the first of equals first; fewer where the vocabulary is smaller.
    top: [usize; TOP],
    tokens: usize,
    /// ln Σ exp of the logits, in f64.
    log_sum_exp: f64,
    /// Probability of the most likely token.
    pub(super) confidence: f64,
}

impl Distribution {
    /// The most likely token; the first of equals.
    pub(super) fn top(&self) -> usize {
        self.top[0]
    }

    /// The most likely tokens as a set: five, or the whole vocabulary.
    pub(super) fn same_top_set(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.top[..self.tokens], &other.top[..other.tokens]);
        mine.iter().all(|token| theirs.contains(token))
    }

    /// Negative log likelihood of a token with this logit, in nats.
    pub(super) fn nll(&self, logit: f32) -> f64 {
        self.log_sum_exp - f64::from(logit)
    }
}

/// Room for the exponentials of a row, used again from row to row.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// exp r′, exp m′, and r′ − m′.
    terms: Vec<[f64; 3]>,
}

/// Compares two rows of finite logits of the same length.
pub(super) fn compare(reference: &[f32], mode: &[f32], scratch: &mut Scratch) -> Position {
    let (reference_top, mode_top) = (top(reference), top(mode));
    let largest = |row: &[f32], top: &[usize; TOP]| row.get(top[0]).copied().map_or(0.0, f64::from);
    let (reference_max, mode_max) = (largest(reference, &reference_top), largest(mode, &mode_top));
    let (mut reference_sum, mut mode_sum) = (0.0, 0.0);
    let (mut weighted, mut weighted_reverse) = (0.0, 0.0);
    scratch.terms.clear();
    for (&r, &m) in reference.iter().zip(mode) {
        let r = f64::from(r) - reference_max;
        let m = f64::from(m) - mode_max;
        let (p, q) = (r.exp(), m.exp());
        reference_sum += p;
        mode_sum += q;
        weighted += p * (r - m);
        weighted_reverse += q * (m - r);
        scratch.terms.push([p, q, r - m]);
    }
    let (reference_log, mode_log) = (reference_sum.ln(), mode_sum.ln());
    let distribution = |top, max: f64, sum: f64| Distribution {
        top,
        tokens: reference.len().min(TOP),
        log_sum_exp: max + sum.ln(),
        // The largest shifted logit is 0.
        confidence: 1.0 / sum,
    };
    Position {
        kl: weighted / reference_sum - reference_log + mode_log,
        kl_reverse: weighted_reverse / mode_sum - mode_log + reference_log,
        js: jensen_shannon(&scratch.terms, reference_sum, mode_sum),
        reference: distribution(reference_top, reference_max, reference_sum),
        mode: distribution(mode_top, mode_max, mode_sum),
    }
}

fn jensen_shannon(terms: &[[f64; 3]], reference_sum: f64, mode_sum: f64) -> f64 {
    let offset = reference_sum.ln() - mode_sum.ln();
    let mut doubled = 0.0;
    for &[p, q, difference] in terms {
        let (p, q) = (p / reference_sum, q / mode_sum);
        let (high, low) = if p > q { (p, q) } else { (q, p) };
        if high > 0.0 {
            let log_ratio = (difference - offset).abs();
            doubled -= low * log_ratio + (high + low) * f64::midpoint(1.0, low / high).ln();
        }
    }
    doubled / 2.0
}

/// The indices of the largest values in falling order, the first of equals first.
fn top(row: &[f32]) -> [usize; TOP] {
    let mut top = [0; TOP];
    let mut values = [f32::NEG_INFINITY; TOP];
    for (index, &value) in row.iter().enumerate() {
        // Nearly always false after the first few.
        if value > values[TOP - 1] {
            let place = values.partition_point(|&larger| larger >= value);
            values[place..].rotate_right(1);
            top[place..].rotate_right(1);
            values[place] = value;
            top[place] = index;
        }
    }
    top
}

/// The negative log likelihood of `token` in a row of logits, in nats; NaN where a logit is not finite.
pub(super) fn nll(row: &[f32], token: usize) -> f64 {
    if !row.iter().all(|logit| logit.is_finite()) {
        return f64::NAN;
    }
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    largest + sum.ln() - f64::from(row[token])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quality::test_values::assert_close;

    fn compare(reference: &[f32], mode: &[f32]) -> Position {
        super::compare(reference, mode, &mut Scratch::default())
    }

    /// p = (1/2, 1/2), q = softmax(0, 2): KL = ln((1 + e²)/2) − 1 = ln cosh 1; nll of the mode's tokens from the same sum.
    #[test]
    fn two_tokens_by_hand() {
        let position = compare(&[0.0, 0.0], &[0.0, 2.0]);
        assert_close(position.kl, 1.0_f64.cosh().ln());
        assert_close(position.mode.nll(2.0), (1.0 + (-2.0_f64).exp()).ln());
        assert_close(position.reference.nll(0.0), 2.0_f64.ln());
        assert_eq!(position.mode.nll(2.0), nll(&[0.0, 2.0], 1));
        assert_eq!((position.reference.top(), position.mode.top()), (0, 1));
        assert_close(position.reference.confidence, 0.5);
    }

    /// The other way round: KL = Σ q ln(q / (1/2)) = ln 2 − entropy of q; JS from its definition.
    #[test]
    fn the_reference_comes_first() {
        let q = 1.0 / (1.0 + (-2.0_f64).exp());
        let entropy = |q: f64| -q * q.ln() - (1.0 - q) * (1.0 - q).ln();
        let position = compare(&[0.0, 2.0], &[0.0, 0.0]);
        assert_close(position.kl, 2.0_f64.ln() - entropy(q));
        assert_close(position.kl_reverse, 1.0_f64.cosh().ln());
        let middle = f64::midpoint(q, 0.5);
        assert_close(
            position.js,
            entropy(middle) - f64::midpoint(entropy(q), 2.0_f64.ln()),
        );
    }

    #[test]
    fn large_logits_neither_overflow_nor_lose_digits() {
        let row = [1.25, -3.5, 0.75, 2.0];
        let other = [1.0, -3.0, 0.5, 2.25];
        let shifted = row.map(|logit| logit + 65536.0);
        assert_eq!(compare(&row, &other).kl, compare(&shifted, &other).kl);
        // All of p on the first token, none of q: KL is the difference of the mode's logits, JS its largest.
        let apart = compare(&[3e38, -3e38], &[0.0, 1e9]);
        assert_close(apart.kl, 1e9);
        assert_close(apart.js, 2.0_f64.ln());
    }

    #[test]
    fn the_first_of_equals_is_on_top_and_five_are_a_set() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0, 0.0, -1.0]), [1, 2, 3, 0, 4]);
        let a = compare(&[5.0, 4.0, 3.0, 2.0, 1.0, 0.0], &[1.0, 2.0, 3.0, 4.0, 5.0, 0.0]);
        assert!(a.reference.same_top_set(&a.mode));
        let b = compare(&[5.0, 4.0, 3.0, 2.0, 1.0, 0.0], &[5.0, 4.0, 3.0, 2.0, 0.0, 1.0]);
        assert!(!b.reference.same_top_set(&b.mode));
    }

    proptest! {
        /// KL is not negative and is zero between equal rows, up to the rounding of sums of f64; JS lies in 0..=ln 2 and
        /// is at most a quarter of the sum of both KL (J. Lin, 1991).
        #[test]
        fn divergences(rows in prop::collection::vec((-40.0_f32..40.0, -40.0_f32..40.0), 1..200)) {
            const ROUNDING: f64 = 1e-12;
            let (reference, mode): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let position = compare(&reference, &mode);
            prop_assert!(position.kl >= -ROUNDING && position.kl_reverse >= -ROUNDING);
            prop_assert!(position.js >= -ROUNDING && position.js <= std::f64::consts::LN_2 + ROUNDING);
            prop_assert!(position.js <= (position.kl + position.kl_reverse) / 4.0 + ROUNDING);
            let equal = compare(&reference, &reference);
            prop_assert_eq!((equal.kl, equal.kl_reverse, equal.js), (0.0, 0.0, 0.0));
        }
    }
}
