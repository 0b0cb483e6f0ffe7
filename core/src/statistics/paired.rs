//! Is B as fast as A? A paired test of log ratios with an equivalence margin.
//!
//! Times vary by factors, so that the logarithm of the ratio B / A of each pair (block) is tested, by Student's t:
//! - *same*: two one-sided tests, each at α, that the mean lies above −ln(1 + margin) and below ln(1 + margin)
//!   (D. J. Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the
//!   equivalence of average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 15, 1987);
//! - *different*: a two-sided test at α that the mean is not 0, and besides a mean beyond the margin, since a large
//!   number of blocks finds differences that matter to nobody;
//! - anything else is *ambiguous*: absence of evidence is not taken for evidence of absence.
//!
//! p-values are for one comparison; adjust each family with [`super::holm`] before asking for the [`Effect`].

use statrs::distribution::ContinuousCDF;

use super::{CONFIDENCE, Interval, mean, standard_deviation, student_t};

/// Pairs below which nothing is tested: the deviation of two says next to nothing, t has one degree of freedom.
pub const MINIMUM_PAIRS: usize = 3;

/// What is asked of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// Ratios between 1 / (1 + margin) and 1 + margin count as the same; 0.03 for 3 %.
    pub margin: f64,
    /// Probability of a wrong answer that is put up with.
    pub alpha: f64,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Effect {
    /// The ratio lies within the margin.
    Same,
    /// B is smaller, by more than the margin as far as is known.
    Faster,
    /// B is larger, by more than the margin as far as is known.
    Slower,
    /// The pairs do not say.
    Ambiguous,
}

/// A paired test that was done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedTest {
    /// Number of pairs.
    pub pairs: usize,
    /// Mean of ln(B / A).
    pub mean_log_ratio: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// 95 % interval of the ratio B / A, by Student's t.
    pub ratio_interval: Interval,
    /// p of "the ratio is 1", two-sided.
    pub p_difference: f64,
    /// p of "the ratio lies outside the margin": the larger of the two one-sided.
    pub p_equivalence: f64,
}

impl PairedTest {
    /// Tests the values of ln(B / A); `None` below [`MINIMUM_PAIRS`] and when one of them is not finite.
    pub fn of(log_ratios: &[f64], margin: f64) -> Option<Self> {
        let pairs = log_ratios.len();
        if pairs < MINIMUM_PAIRS || log_ratios.iter().any(|ratio| !ratio.is_finite()) {
            return None;
        }
        let student = student_t(pairs - 1)?;
        let mean_log_ratio = mean(log_ratios)?;
        let standard_error = standard_deviation(log_ratios)? / (pairs as f64).sqrt();
        // p of a mean as far above `bound` as this one, or farther. Pairs that do not vary leave no doubt.
        let p_above = |difference: f64| {
            if standard_error > 0.0 {
                student.sf(difference / standard_error)
            } else if difference > 0.0 {
                0.0
            } else {
                1.0
            }
        };
        let bound = margin.ln_1p();
        let reach = student.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)) * standard_error;
        Some(Self {
            pairs,
            mean_log_ratio,
            standard_error,
            ratio_interval: Interval {
                low: (mean_log_ratio - reach).exp(),
                high: (mean_log_ratio + reach).exp(),
            },
            p_difference: (2.0 * p_above(mean_log_ratio.abs())).min(1.0),
            p_equivalence: p_above(mean_log_ratio + bound).max(p_above(bound - mean_log_ratio)),
        })
    }

    /// B / A, the geometric mean over the pairs.
    pub fn ratio(&self) -> f64 {
        self.mean_log_ratio.exp()
    }

    /// The answer, from p-values that may have been adjusted.
    pub fn effect(&self, p_difference: f64, p_equivalence: f64, question: Question) -> Effect {
        let beyond_margin = self.mean_log_ratio.abs() > question.margin.ln_1p();
        if p_equivalence <= question.alpha {
            Effect::Same
        } else if p_difference > question.alpha || !beyond_margin {
            Effect::Ambiguous
        } else if self.mean_log_ratio > 0.0 {
            Effect::Slower
        } else {
            Effect::Faster
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as Generator;

    use super::super::test_samples::log_normal;
    use super::*;

    const QUESTION: Question = Question {
        margin: 0.03,
        alpha: 0.05,
    };

    fn effect(log_ratios: &[f64]) -> Effect {
        let test = PairedTest::of(log_ratios, QUESTION.margin).unwrap();
        test.effect(test.p_difference, test.p_equivalence, QUESTION)
    }

    /// d = numpy.log1p([…]); scipy.stats.ttest_1samp(d, 0), with its confidence_interval(0.95), and
    /// ttest_1samp(d, ∓log(1.03), alternative='greater' and 'less'), scipy 1.17.1.
    #[test]
    fn the_test_is_scipys() {
        /// Of the incomplete beta function, which both compute by series.
        const RELATIVE: f64 = 1e-9;
        let log_ratios = [0.012_f64, -0.008, 0.021, 0.004, -0.015, 0.009, 0.017, -0.002].map(f64::ln_1p);
        let test = PairedTest::of(&log_ratios, 0.03).unwrap();
        for (value, expected) in [
            (test.mean_log_ratio, 0.004_671_522_197_156_133),
            (test.standard_error, 0.004_385_327_037_049_711),
            (test.ratio_interval.low, 0.994_318_075_076_958),
            (test.ratio_interval.high, 1.015_154_860_584_367_9),
            (test.p_difference, 0.322_116_004_981_443_77),
            (test.p_equivalence, 0.000_377_267_172_452_210_64),
        ] {
            assert!((value / expected - 1.0).abs() < RELATIVE, "{value} {expected}");
        }
    }

    #[test]
    fn too_few_pairs_are_not_tested() {
        assert_eq!(PairedTest::of(&[0.0; 2], 0.03), None);
        assert_eq!(PairedTest::of(&[0.0, 0.1, f64::NAN], 0.03), None);
    }

    #[test]
    fn pairs_that_do_not_vary_leave_no_doubt() {
        assert_eq!(effect(&[0.0; 3]), Effect::Same);
        assert_eq!(effect(&[0.02; 3]), Effect::Same);
        assert_eq!(effect(&[0.05; 3]), Effect::Slower);
        assert_eq!(effect(&[-0.05; 3]), Effect::Faster);
    }

    #[test]
    fn what_the_pairs_do_not_say_is_ambiguous() {
        assert_eq!(effect(&[-0.2, 0.1, 0.3]), Effect::Ambiguous, "too noisy");
        // Certainly slower, perhaps by less than the margin: mean 0.028, ln 1.03 = 0.0296.
        assert_eq!(effect(&[0.024, 0.028, 0.032, 0.026, 0.03]), Effect::Ambiguous);
        // An adjusted p-value decides, not the test's own.
        let test = PairedTest::of(&[0.05, 0.06, 0.07], 0.03).unwrap();
        assert_eq!(test.effect(0.051, 1.0, QUESTION), Effect::Ambiguous);
        assert_eq!(test.effect(0.05, 1.0, QUESTION), Effect::Slower);
    }

    /// Answers to 1000 comparisons of 40 paired blocks whose times each deviate by 3 %, B slower by `slowdown`.
    fn simulated(slowdown: f64, expected: Effect) -> usize {
        let mut generator = Generator::seed_from_u64(11);
        (0..1000)
            .filter(|_| {
                let log_ratios: Vec<f64> = (0..40)
                    .map(|_| {
                        let [a, b] = [(); 2].map(|()| log_normal(0.03, &mut generator));
                        (b * (1.0 + slowdown) / a).ln()
                    })
                    .collect();
                effect(&log_ratios) == expected
            })
            .count()
    }

    #[test]
    fn equals_are_found_the_same_and_slowdowns_slower() {
        assert!(simulated(0.0, Effect::Same) >= 950);
        assert!(simulated(0.05, Effect::Slower) >= 950);
        assert!(simulated(1.0 / 1.05 - 1.0, Effect::Faster) >= 950);
    }

    #[test]
    fn wrong_answers_are_rare() {
        // At the margin itself SAME is wrong, and comes at most at the rate α; 7 % is α and three standard errors.
        assert!(simulated(0.03, Effect::Same) <= 70);
        assert_eq!(simulated(0.0, Effect::Slower), 0);
    }
}
