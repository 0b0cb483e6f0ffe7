//! Statistics of pooled values, with the definitions of numpy and scipy.
//!
//! Quantiles interpolate linearly between order statistics (numpy's default). The standard deviation divides by n.
//! Skewness is m₃/m₂^1.5 and kurtosis m₄/m₂² − 3 (Fisher), both from biased central moments (scipy's default); they are
//! NaN where all values are equal.

use crate::results::DistributionStatistics;
use crate::statistics::quantile_of_sorted;

/// scipy takes values as equal when their variance is below the square of this times their mean.
const RELATIVE_RESOLUTION: f64 = 1e-15;

/// Statistics of finite values; every one is NaN when there are none.
pub(super) fn statistics(layer: &str, kind: &str, values: &[f32]) -> DistributionStatistics {
    let mut sorted: Vec<f64> = values.iter().copied().map(f64::from).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let mean = sorted.iter().sum::<f64>() / count;
    let moment = |order| sorted.iter().map(|value| (value - mean).powi(order)).sum::<f64>() / count;
    let variance = moment(2);
    let varies = variance > (RELATIVE_RESOLUTION * mean).powi(2);
    let quantile = |share| quantile_of_sorted(&sorted, share).unwrap_or(f64::NAN);
    let where_it_varies = |value| if varies { value } else { f64::NAN };
    DistributionStatistics {
        layer: layer.to_owned(),
        kind: kind.to_owned(),
        mean,
        std: variance.sqrt(),
        min: sorted.first().copied().unwrap_or(f64::NAN),
        max: sorted.last().copied().unwrap_or(f64::NAN),
        median: quantile(0.5),
        q25: quantile(0.25),
        q75: quantile(0.75),
        skewness: where_it_varies(moment(3) / variance.powf(1.5)),
        kurtosis: where_it_varies(moment(4) / variance.powi(2) - 3.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::test_values::{assert_close, pooled};

    /// 0, 0, 0, 4: mean 1, m₂ = 3, m₃ = 6, m₄ = 21.
    #[test]
    fn moments_by_hand() {
        let statistics = statistics("last", "standard_stats", &[0.0, 4.0, 0.0, 0.0]);
        assert_eq!((statistics.mean, statistics.min, statistics.max), (1.0, 0.0, 4.0));
        assert_close(statistics.std, 3.0_f64.sqrt());
        assert_close(statistics.skewness, 6.0 / 27.0_f64.sqrt());
        assert_close(statistics.kurtosis, 21.0 / 9.0 - 3.0);
    }

    #[test]
    fn statistics_are_numpys_and_scipys() {
        let (values, _) = pooled(0);
        let found = statistics("last", "standard_stats", &values);
        // From numpy and scipy.stats on the same values.
        assert_close(found.mean, 0.220_703_125);
        assert_close(found.std, 3.693_040_209_636_260_2);
        assert_close(found.min, -6.0);
        assert_close(found.max, 6.5);
        assert_close(found.median, 0.1875);
        assert_close(found.q25, -2.9375);
        assert_close(found.q75, 3.3125);
        assert_close(found.skewness, 0.012_807_932_627_609_77);
        assert_close(found.kurtosis, -1.211_188_678_525_405_1);
    }

    #[test]
    fn equal_values_have_no_shape() {
        let statistics = statistics("last", "quantized_stats", &[0.1; 7]);
        assert_close(statistics.mean, f64::from(0.1_f32));
        assert!(statistics.std < 1e-15 && statistics.skewness.is_nan() && statistics.kurtosis.is_nan());
    }

    #[test]
    fn no_values_have_no_statistics() {
        let statistics = statistics("last", "quantized_stats", &[]);
        assert!(statistics.mean.is_nan() && statistics.min.is_nan() && statistics.skewness.is_nan());
    }
}
