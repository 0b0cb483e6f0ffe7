/// Count, mean and sums of powers of deviations from it, up to the fourth.
///
/// Two of them merge into that of all values (P. Pébay, "Formulas for robust, one-pass parallel computation of
/// covariances and arbitrary-order statistical moments", Sandia report SAND2008-6212, 2008): exactly but for rounding,
/// and without the cancellation that sums of plain powers suffer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
}

/// scipy takes values as equal when their variance is below the square of this times their mean.
const RELATIVE_RESOLUTION: f64 = 1e-15;

impl Moments {
    /// Those of finite values, in two passes.
    pub(super) fn of(values: &[f32]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let count = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let mut moments = Self {
            count,
            mean,
            ..Self::default()
        };
        for &value in values {
            let deviation = f64::from(value) - mean;
            let square = deviation * deviation;
            moments.second += square;
            moments.third += square * deviation;
            moments.fourth += square * square;
        }
        moments
    }

    /// Takes the values of `other` too.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0.0 {
            return;
        }
        let (a, b) = (self.count, other.count);
        let count = a + b;
        let delta = other.mean - self.mean;
        let (delta2, product) = (delta * delta, a * b);
        self.fourth += other.fourth
            + delta2 * delta2 * product * (a * a - product + b * b) / count.powi(3)
            + 6.0 * delta2 * (a * a * other.second + b * b * self.second) / (count * count)
            + 4.0 * delta * (a * other.third - b * self.third) / count;
        self.third += other.third
            + delta2 * delta * product * (a - b) / (count * count)
            + 3.0 * delta * (a * other.second - b * self.second) / count;
        self.second += other.second + delta2 * product / count;
        self.mean += delta * b / count;
        self.count = count;
    }

    /// NaN without values, as all that follows.
    pub(super) fn mean(&self) -> f64 {
        if self.count > 0.0 { self.mean } else { f64::NAN }
    }

    fn variance(&self) -> f64 {
        self.second / self.count
    }

    /// Standard deviation, ddof = 0.
    pub(super) fn std(&self) -> f64 {
        self.variance().sqrt()
    }

    /// m₃ / m₂^1.5; NaN where all values are equal.
    pub(super) fn skewness(&self) -> f64 {
        self.where_it_varies(self.third / self.count / self.variance().powf(1.5))
    }

    /// m₄ / m₂² − 3 (Fisher); NaN where all values are equal.
    pub(super) fn kurtosis(&self) -> f64 {
        self.where_it_varies(self.fourth / self.count / self.variance().powi(2) - 3.0)
    }

    fn where_it_varies(&self, value: f64) -> f64 {
        let varies = self.variance() > (RELATIVE_RESOLUTION * self.mean).powi(2);
        if varies { value } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::test_values::{assert_close, pooled};

    /// 0, 0, 0, 4: mean 1, m₂ = 3, m₃ = 6, m₄ = 21.
    #[test]
    fn moments_by_hand() {
        let moments = Moments::of(&[0.0, 4.0, 0.0, 0.0]);
        assert_eq!(moments.mean(), 1.0);
        assert_close(moments.std(), 3.0_f64.sqrt());
        assert_close(moments.skewness(), 6.0 / 27.0_f64.sqrt());
        assert_close(moments.kurtosis(), 21.0 / 9.0 - 3.0);
    }

    #[test]
    fn merged_moments_are_scipys_of_all_values() {
        let (values, _) = pooled(0);
        for cut in [0, 1, 7, values.len() / 2, values.len()] {
            let mut moments = Moments::of(&values[..cut]);
            moments.merge(&Moments::of(&values[cut..]));
            // From numpy and scipy.stats on the same values.
            assert_close(moments.mean(), 0.220_703_125);
            assert_close(moments.std(), 3.693_040_209_636_260_2);
            assert_close(moments.skewness(), 0.012_807_932_627_609_77);
            assert_close(moments.kurtosis(), -1.211_188_678_525_405_1);
        }
    }

    #[test]
    fn equal_values_have_no_shape_and_no_values_nothing() {
        let equal = Moments::of(&[0.1; 7]);
        assert!(equal.std() < 1e-15 && equal.skewness().is_nan() && equal.kurtosis().is_nan());
        let none = Moments::default();
        assert!(none.mean().is_nan() && none.std().is_nan() && none.kurtosis().is_nan());
    }
}
