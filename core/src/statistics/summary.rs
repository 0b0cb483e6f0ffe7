//! Location, spread and quantiles.

use statrs::distribution::ContinuousCDF;

use super::{CONFIDENCE, Interval, student_t};

/// Mean, or `None` of nothing. That of equal values is their value: sums are of differences from the first, which
/// leaves no rounding to be taken for a deviation.
pub fn mean(values: &[f64]) -> Option<f64> {
    let first = *values.first()?;
    if !first.is_finite() {
        return Some(values.iter().sum::<f64>() / values.len() as f64);
    }
    let differences: f64 = values.iter().map(|value| value - first).sum();
    Some(first + differences / values.len() as f64)
}

/// Standard deviation of a sample (ddof = 1, as pandas has it); `None` below two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// 95 % interval of the mean of normal values by Student's t; `None` below two.
pub fn mean_interval(values: &[f64]) -> Option<Interval> {
    let mean = mean(values)?;
    let standard_error = standard_deviation(values)? / (values.len() as f64).sqrt();
    let reach = student_t(values.len() - 1)?.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)) * standard_error;
    Some(Interval {
        low: mean - reach,
        high: mean + reach,
    })
}

/// Quantile by linear interpolation between order statistics (numpy's default): for `n` sorted values, that at
/// position `probability · (n − 1)`. `None` of nothing, or when `probability` is outside 0 to 1.
pub fn quantile(values: &[f64], probability: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, probability)
}

/// [`quantile`] of values that are in ascending order already.
pub(crate) fn quantile_of_sorted(sorted: &[f64], probability: f64) -> Option<f64> {
    if !(0.0..=1.0).contains(&probability) {
        return None;
    }
    let position = probability * sorted.len().checked_sub(1)? as f64;
    let below = position.floor() as usize;
    let low = *sorted.get(below)?;
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    Some(interpolate(low, high, position.fract()))
}

/// The value at `fraction` of the way from `low` to `high`, from the nearer end as numpy does: it stays between them.
pub(crate) fn interpolate(low: f64, high: f64, fraction: f64) -> f64 {
    if fraction < 0.5 {
        low + (high - low) * fraction
    } else {
        high - (high - low) * (1.0 - fraction)
    }
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Whether `count` values say something about a quantile: at least one of them is expected beyond it on either side,
/// `count · min(probability, 1 − probability) ≥ 1`. The 90th percentile needs 10 values, the 99th 100.
///
/// The expected share of the population below the i-th of n ordered values is i / (n + 1) (Hyndman and Fan, "Sample
/// quantiles in statistical packages", The American Statistician 50, 1996), so that with fewer the quantile is
/// expected outside the sample, where no interpolation finds it. This is the least that can be asked: guarantees such
/// as MLPerf's take far more.
pub fn quantile_is_supported(count: usize, probability: f64) -> bool {
    // 10 · (1 − 0.9) is a little less than 1 in f64.
    const ROUNDING: f64 = 1e-9;
    (0.0..=1.0).contains(&probability) && count as f64 * probability.min(1.0 - probability) >= 1.0 - ROUNDING
}

/// [`quantile`] where the number of values supports it ([`quantile_is_supported`]), else `None`.
pub fn supported_quantile(values: &[f64], probability: f64) -> Option<f64> {
    quantile_is_supported(values.len(), probability)
        .then(|| quantile(values, probability))
        .flatten()
}

/// What a group of values comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation with ddof = 1; `None` of a single value, or when a value is infinite.
    pub std: Option<f64>,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Summary {
    /// The summary of `values`; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            count: values.len(),
            mean: mean(values)?,
            std: standard_deviation(values).filter(|std| std.is_finite()),
            min: values.iter().copied().reduce(f64::min)?,
            max: values.iter().copied().reduce(f64::max)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few roundings of f64.
    const ROUNDING: f64 = 1e-12;

    #[test]
    fn summary_equals_numpy() {
        // numpy: a = [103.5, 98.25, 101.0, 110.75]; a.mean(), a.std(ddof=1), np.quantile(a, [0, .1, .5, .99, 1])
        let values = [103.5, 98.25, 101.0, 110.75];
        let summary = Summary::of(&values).unwrap();
        assert_eq!((summary.mean, summary.min, summary.max), (103.375, 98.25, 110.75));
        assert!((summary.std.unwrap() - 5.363_845_013_918_032).abs() < ROUNDING);
        for (probability, expected) in [
            (0.0, 98.25),
            (0.1, 99.075),
            (0.5, 102.25),
            (0.99, 110.5325),
            (1.0, 110.75),
        ] {
            assert!((quantile(&values, probability).unwrap() - expected).abs() < ROUNDING);
        }
    }

    #[test]
    fn the_interval_of_the_mean_is_scipys() {
        // scipy: st.t.interval(.95, 3, loc=np.mean(a), scale=st.sem(a)) of the same values
        let Interval { low, high } = mean_interval(&[103.5, 98.25, 101.0, 110.75]).unwrap();
        assert!((low - 94.839_925_626_671_06).abs() < 1e-8 && (high - 111.910_074_373_328_94).abs() < 1e-8);
        assert_eq!(mean_interval(&[1.0]), None);
    }

    #[test]
    fn equal_values_do_not_deviate() {
        // numpy gives a std of 8.5e-18 for these three sizes in GB.
        let summary = Summary::of(&[0.050_394_699; 3]).unwrap();
        assert_eq!((summary.mean, summary.std), (0.050_394_699, Some(0.0)));
        assert_eq!(mean(&[f64::INFINITY; 2]), Some(f64::INFINITY));
    }

    #[test]
    fn too_few_values_have_no_statistic() {
        assert_eq!(
            (mean(&[]), standard_deviation(&[1.0]), quantile(&[], 0.5)),
            (None, None, None)
        );
        assert_eq!((quantile(&[1.0], 1.5), quantile(&[1.0], f64::NAN)), (None, None));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::INFINITY, 1.0]).unwrap().std, None);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_percentile_needs_a_value_beyond_it() {
        let least = |probability| {
            (0..10_000)
                .find(|&count| quantile_is_supported(count, probability))
                .unwrap()
        };
        assert_eq!([0.5, 0.9, 0.95, 0.99, 0.999].map(least), [2, 10, 20, 100, 1000]);
        assert_eq!([0.1, 0.01].map(least), [10, 100]);
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(supported_quantile(&values[1..], 0.99), None);
        // numpy.percentile(numpy.arange(100), 99)
        assert!((supported_quantile(&values, 0.99).unwrap() - 98.01).abs() < ROUNDING);
        assert!(!quantile_is_supported(100, f64::NAN));
    }
}
