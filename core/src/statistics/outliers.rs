//! Outliers by Tukey's fences, flagged and never dropped: a slow batch is a fact about the machine.
//!
//! J. W. Tukey, "Exploratory Data Analysis", 1977: values beyond 1.5 interquartile ranges from the quartiles are
//! outside, those beyond 3 far out. Criterion calls the two mild and severe.

use super::quantile;

const OUTSIDE: f64 = 1.5;
const FAR_OUT: f64 = 3.0;

/// The limits of ordinary values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fences {
    /// First quartile.
    pub first_quartile: f64,
    /// Third quartile.
    pub third_quartile: f64,
}

impl Fences {
    /// The fences of `values`; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            first_quartile: quantile(values, 0.25)?,
            third_quartile: quantile(values, 0.75)?,
        })
    }

    /// Lowest and highest value that is not outside.
    pub fn inner(&self) -> (f64, f64) {
        self.at(OUTSIDE)
    }

    /// Lowest and highest value that is not far out.
    pub fn outer(&self) -> (f64, f64) {
        self.at(FAR_OUT)
    }

    fn at(&self, ranges: f64) -> (f64, f64) {
        let reach = ranges * (self.third_quartile - self.first_quartile);
        (self.first_quartile - reach, self.third_quartile + reach)
    }
}

/// A value beyond the fences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlier {
    /// Its place among the values.
    pub index: usize,
    /// The value.
    pub value: f64,
    /// Whether it is far out, beyond 3 interquartile ranges.
    pub severe: bool,
}

/// The outliers of `values` in their order.
pub fn tukey_outliers(values: &[f64]) -> Vec<Outlier> {
    let Some(fences) = Fences::of(values) else {
        return Vec::new();
    };
    let beyond = |(low, high): (f64, f64), value: f64| value < low || value > high;
    values
        .iter()
        .enumerate()
        .filter(|&(_, &value)| beyond(fences.inner(), value))
        .map(|(index, &value)| Outlier {
            index,
            value,
            severe: beyond(fences.outer(), value),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_samples::TIMES;
    use super::*;

    #[test]
    fn fences_are_numpys() {
        // q1, q3 = np.percentile(TIMES, [25, 75]); q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1), and with 3
        let fences = Fences::of(&TIMES).unwrap();
        assert_eq!((fences.first_quartile, fences.third_quartile), (98.75, 102.0));
        assert_eq!(
            (fences.inner(), fences.outer()),
            ((93.875, 106.875), (89.0, 111.75))
        );
    }

    #[test]
    fn outliers_are_flagged_with_their_place() {
        let outlier = |index, value, severe| Outlier { index, value, severe };
        assert_eq!(
            tukey_outliers(&TIMES),
            [outlier(3, 110.75, false), outlier(7, 130.0, true)]
        );
        assert_eq!(tukey_outliers(&[]), []);
        assert_eq!(tukey_outliers(&[1.0; 5]), []);
    }
}
