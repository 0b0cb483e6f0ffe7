//! What the raw times of a cell come to.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;

use super::Performance;
use crate::measure::sampling::{TimedPasses, WarmUpRun};
use crate::statistics::{
    GroupedSamples, Interval, RESAMPLES, Summary, median, supported_quantile, tukey_outliers,
};

/// Seconds of a batch. What batches of different shapes differ by is taken out of all but the mean: see
/// [`GroupedSamples::adjusted`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchTimes {
    /// The typical time: with batches of one shape the median.
    pub median: f64,
    /// Its 95 % interval within the process; `None` of too few samples.
    pub interval: Option<Interval>,
    /// Mean of the samples as they are.
    pub mean: f64,
    /// Standard deviation (ddof = 1); `None` of one sample.
    pub std: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// 90th percentile; `None` below 10 samples.
    pub p90: Option<f64>,
    /// 99th percentile; `None` below 100 samples.
    pub p99: Option<f64>,
    /// Samples beyond Tukey's inner fences, 1.5 interquartile ranges from the quartiles. They count like all others.
    pub outliers: usize,
}

/// Median seconds of the parts of a generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerationTimes {
    /// To the first token (TTFT).
    pub first_token: f64,
    /// From one token of a sequence to the next, after the first (TPOT); `None` where one was generated.
    pub each_further_token: Option<f64>,
}

impl Performance {
    /// The parts of the timed generations; `None` for other workloads.
    pub fn generation_times(&self) -> Option<GenerationTimes> {
        let further = self.generated_tokens?.saturating_sub(1);
        let each: Vec<f64> = (self.batch_seconds.iter().zip(&self.first_token_seconds))
            .map(|(whole, first)| (whole - first) / further as f64)
            .collect();
        Some(GenerationTimes {
            first_token: median(&self.first_token_seconds)?,
            each_further_token: median(&each).filter(|_| further > 0),
        })
    }

    /// The same with the times of its batches; `seed` is that of the bootstrap.
    #[must_use]
    pub fn with_times(mut self, warm_up: WarmUpRun, timed: TimedPasses, seed: u64) -> Self {
        self.warm_up = warm_up;
        self.convergence = Some(timed.convergence);
        self.batch_seconds = timed.batch_seconds;
        self.device_seconds = timed.device_seconds;
        let generator = &mut Generator::seed_from_u64(seed);
        let samples = self.grouped_samples();
        self.interval = samples.and_then(|samples| samples.interval(RESAMPLES, generator));
        self
    }

    /// The timed batches, grouped by shape. Without shapes, each batch ran once and is of a kind of its own.
    pub fn grouped_samples(&self) -> Option<GroupedSamples> {
        self.group(&self.batch_seconds)
    }

    fn group(&self, samples: &[f64]) -> Option<GroupedSamples> {
        if self.batches.is_empty() {
            let each: Vec<usize> = (0..samples.len()).collect();
            return GroupedSamples::of(samples, &each);
        }
        let shapes: Vec<_> = self
            .batches
            .iter()
            .map(|batch| (batch.sequences, batch.length))
            .collect();
        GroupedSamples::of(samples, &shapes)
    }

    /// The times by the host's clock; `None` without samples.
    pub fn batch_times(&self) -> Option<BatchTimes> {
        let grouped = self.grouped_samples()?;
        let adjusted = grouped.adjusted(&self.batch_seconds);
        let Summary { std, min, max, .. } = Summary::of(&adjusted)?;
        Some(BatchTimes {
            median: grouped.median(),
            interval: self.interval,
            mean: Summary::of(&self.batch_seconds)?.mean,
            std,
            min,
            max,
            p90: supported_quantile(&adjusted, 0.9),
            p99: supported_quantile(&adjusted, 0.99),
            outliers: tukey_outliers(&adjusted).len(),
        })
    }

    /// The typical seconds of a batch by the device's clock, where it has one.
    pub fn device_median(&self) -> Option<f64> {
        Some(self.group(&self.device_seconds)?.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::BatchShape;

    fn performance(lengths: &[usize], batch_seconds: Vec<f64>) -> Performance {
        let shape = |&length: &usize| BatchShape {
            sequences: 4,
            length,
            tokens: 4 * length as u64,
        };
        Performance {
            batches: lengths.iter().map(shape).collect(),
            batch_seconds,
            ..Performance::default()
        }
    }

    #[test]
    fn batches_of_one_shape_have_plain_statistics() {
        // numpy: a = [1.0, 1.1, 0.9, 1.2, 1.0, 1.1, 0.9, 1.0, 1.05, 2.0]; np.median(a), a.mean(), a.std(ddof=1),
        // np.quantile(a, 0.9); the quartiles are 1.0 and 1.1, hence 1.25 is the upper fence.
        let samples = vec![1.0, 1.1, 0.9, 1.2, 1.0, 1.1, 0.9, 1.0, 1.05, 2.0];
        let times = performance(&[100], samples).batch_times().unwrap();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}");
        close(times.median, 1.025);
        close(times.mean, 1.125);
        close(times.std.unwrap(), 0.320_806_275_915_335_95);
        close(times.p90.unwrap(), 1.28);
        assert_eq!(
            (times.min, times.max, times.p99, times.outliers),
            (0.9, 2.0, None, 1)
        );
    }

    #[test]
    fn a_long_batch_is_no_outlier() {
        let mut samples: Vec<f64> = [1.0, 1.0, 1.0, 9.0].repeat(4);
        let times = performance(&[10, 10, 10, 90], samples.clone())
            .batch_times()
            .unwrap();
        assert_eq!((times.median, times.mean, times.std), (3.0, 3.0, Some(0.0)));
        assert_eq!((times.min, times.max, times.outliers), (3.0, 3.0, 0));
        samples[2] = 1.5;
        let times = performance(&[10, 10, 10, 90], samples).batch_times().unwrap();
        assert_eq!((times.median, times.max, times.outliers), (3.0, 4.5, 1));
    }

    #[test]
    fn without_shapes_the_typical_time_is_the_mean() {
        let times = performance(&[], vec![2.0, 3.0, 7.0]).batch_times().unwrap();
        assert_eq!((times.median, times.mean), (4.0, 4.0));
        assert_eq!(performance(&[], Vec::new()).batch_times(), None);
        assert_eq!(performance(&[], vec![1.0]).device_median(), None);
    }
}
