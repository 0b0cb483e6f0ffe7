//! Do two classifiers err equally often on the same cases?

use statrs::distribution::{Binomial, DiscreteCDF};

/// McNemar's exact test: p, two-sided, of "each is as often right where the other is wrong", from the numbers of cases
/// that only the one and only the other has right. Under it the smaller number is binomial with probability ½.
///
/// Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
/// Psychometrika 12, 1947. The test takes cases as independent.
pub fn mcnemar(only_one: u64, only_other: u64) -> f64 {
    let cases = only_one + only_other;
    Binomial::new(0.5, cases).map_or(f64::NAN, |binomial| {
        (2.0 * binomial.cdf(only_one.min(only_other))).min(1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy.stats.binomtest(min(b, c), b + c, 0.5).pvalue, scipy 1.17.1.
    #[test]
    fn p_values_are_scipys() {
        /// Of the incomplete beta function, which both compute by series.
        const RELATIVE: f64 = 1e-9;
        for (one, other, expected) in MCNEMAR_OF_SCIPY {
            let found = mcnemar(one, other);
            assert!(
                (found / expected - 1.0).abs() < RELATIVE,
                "{one} {other}: {found}"
            );
        }
        assert_eq!(mcnemar(0, 0), 1.0);
    }

    const MCNEMAR_OF_SCIPY: [(u64, u64, f64); 4] = [
        (3, 12, 0.035_156_25),
        (12, 3, 0.035_156_25),
        (7, 7, 1.0),
        (480, 530, 0.123_073_275_896_218_01),
    ];
}
