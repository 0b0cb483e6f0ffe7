//! Bootstrap intervals of statistics of clustered values: what comes from one genome is alike, so that genomes are drawn,
//! with everything in them.
//!
//! Clusters are drawn with replacement, and the statistic is computed from the drawn ones; what is compared within a
//! cluster (mode and reference on the same tokens) stays paired. Drawn from themselves, few clusters vary too little, so
//! that the percentiles are Φ(±√(k / (k − 1)) · t₀.₉₇₅,ₖ₋₁) for k clusters (T. C. Hesterberg, "What teachers should know
//! about the bootstrap", The American Statistician 69, 2015: the expanded percentile interval).

use rand::{Rng, RngExt};
use statrs::distribution::{ContinuousCDF, Normal};

use super::{CONFIDENCE, Interval, quantile, student_t};

/// Share of resamples in which a statistic may be undefined (no drawn cluster has such a token) before it has no
/// interval.
const UNDEFINED: f64 = 0.5;

/// 95 % intervals of the statistics that `statistics` computes from how often each of `clusters` was drawn. `None` for a
/// statistic that is undefined in most resamples; without two clusters or without resamples, for all.
///
/// Resamples in which a statistic is undefined (NaN) are left out of its percentiles.
pub fn cluster_intervals<const COUNT: usize>(
    clusters: usize,
    resamples: usize,
    generator: &mut impl Rng,
    mut statistics: impl FnMut(&[u32]) -> [f64; COUNT],
) -> [Option<Interval>; COUNT] {
    let Some(student) = (clusters >= 2).then(|| student_t(clusters - 1)).flatten() else {
        return [None; COUNT];
    };
    let mut drawn = vec![0; clusters];
    let mut values: [Vec<f64>; COUNT] = std::array::from_fn(|_| Vec::with_capacity(resamples));
    for _ in 0..resamples {
        drawn.fill(0);
        for _ in 0..clusters {
            drawn[generator.random_range(0..clusters)] += 1;
        }
        for (values, value) in values.iter_mut().zip(statistics(&drawn)) {
            if value.is_finite() {
                values.push(value);
            }
        }
    }
    let count = clusters as f64;
    let reach = student.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)) * (count / (count - 1.0)).sqrt();
    let tail = Normal::standard().cdf(-reach);
    values.map(|values| {
        let enough = values.len() as f64 >= (1.0 - UNDEFINED) * resamples as f64;
        (enough && !values.is_empty())
            .then(|| {
                Some(Interval {
                    low: quantile(&values, tail)?,
                    high: quantile(&values, 1.0 - tail)?,
                })
            })
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as Generator;

    use super::super::test_samples::log_normal;
    use super::*;

    fn weighted_mean(drawn: &[u32], values: &[f64]) -> f64 {
        let total: u32 = drawn.iter().sum();
        let sum: f64 = drawn
            .iter()
            .zip(values)
            .map(|(&times, value)| f64::from(times) * value)
            .sum();
        sum / f64::from(total)
    }

    /// 13 clusters, as the default data has genomes: the interval of the mean of skewed values covers at about its level.
    #[test]
    fn the_interval_covers_the_mean() {
        const TRIALS: usize = 1000;
        // Mean of a log-normal of σ = 0.5.
        let truth = (0.125_f64).exp();
        let mut generator = Generator::seed_from_u64(5);
        let covered = (0..TRIALS)
            .filter(|_| {
                let values: Vec<f64> = (0..13).map(|_| log_normal(0.5, &mut generator)).collect();
                let [interval] =
                    cluster_intervals(13, 500, &mut generator, |drawn| [weighted_mean(drawn, &values)]);
                interval.unwrap().contains(truth)
            })
            .count();
        // Student's t itself covers 92 to 93 % of such samples; the binomial error of 1000 trials is 0.8 %.
        assert!((900..=970).contains(&covered), "{covered}");
    }

    /// The resampled mean deviates by σ / √k, so that the ends lie at ±reach of that for many normal-like clusters.
    #[test]
    fn the_ends_are_those_of_students_interval() {
        let values: Vec<f64> = (0..40).map(|value| f64::from(value) / 40.0).collect();
        let [interval] = cluster_intervals(40, 20_000, &mut Generator::seed_from_u64(6), |drawn| {
            [weighted_mean(drawn, &values)]
        });
        let interval = interval.unwrap();
        // numpy: values.mean() ± scipy.stats.t.ppf(.975, 39) · values.std(ddof=1) / √40 = 0.4875 ± 0.0934697
        let error = (interval.low - 0.394_030)
            .abs()
            .max((interval.high - 0.580_970).abs());
        // Monte-Carlo error of a 2.5 % quantile of 20 000 draws: about 0.02 of the half-width.
        assert!(error < 0.003, "{interval:?}");
    }

    #[test]
    fn what_is_undefined_has_no_interval() {
        let generator = || Generator::seed_from_u64(7);
        assert_eq!(cluster_intervals(1, 100, &mut generator(), |_| [1.0]), [None]);
        assert_eq!(cluster_intervals(2, 0, &mut generator(), |_| [1.0]), [None]);
        let found = cluster_intervals(5, 100, &mut generator(), |drawn| [f64::NAN, f64::from(drawn[0])]);
        assert!(found[0].is_none() && found[1].is_some());
    }
}
