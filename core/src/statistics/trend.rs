//! Whether a series falls: the test of H. B. Mann ("Nonparametric tests against trend", Econometrica 13, 1945) with M. G.
//! Kendall's statistic, its variance corrected for ties ("Rank Correlation Methods", 4th edition 1975, chapter 4).

use statrs::distribution::{ContinuousCDF, Normal};

/// One-sided p of "the series does not fall", by the normal approximation, as
/// `scipy.stats.kendalltau(range(n), samples, method='asymptotic', alternative='less')` gives it. `None` when all values
/// are equal. Costs a comparison a pair.
pub(super) fn falling_trend_p(samples: &[f64]) -> Option<f64> {
    let mut rises = 0.0;
    for (place, sample) in samples.iter().enumerate() {
        for later in &samples[place + 1..] {
            rises += f64::from(i8::from(later > sample) - i8::from(later < sample));
        }
    }
    let variance_of = |count: usize| {
        let count = count as f64;
        count * (count - 1.0) * (2.0 * count + 5.0) / 18.0
    };
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties = sorted.chunk_by(|one, other| one == other);
    let variance = variance_of(samples.len()) - ties.map(|tied| variance_of(tied.len())).sum::<f64>();
    (variance > 0.0).then(|| Normal::standard().cdf(rises / variance.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_scipys() {
        /// Of the normal distribution function, which both compute by series.
        const ROUNDING: f64 = 1e-9;
        // scipy 1.17.1, called as above.
        let cases: [(&[f64], f64); 3] = [
            (
                &[3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0],
                0.010_068_375_775_173_17,
            ),
            (
                &[101.5, 103.2, 100.9, 100.1, 100.1, 99.2, 99.8, 98.7, 99.9, 99.1],
                0.002_028_568_016_185_646,
            ),
            (&[1.0, 2.0, 3.0, 2.0, 4.0], 0.961_512_913_509_366_6),
        ];
        for (samples, expected) in cases {
            let p = falling_trend_p(samples).unwrap();
            assert!((p / expected - 1.0).abs() < ROUNDING, "{p} {expected}");
        }
        assert_eq!(falling_trend_p(&[2.0; 5]), None);
        assert_eq!(falling_trend_p(&[]), None);
    }
}
