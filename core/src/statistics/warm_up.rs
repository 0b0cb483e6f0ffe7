//! Where the warm-up ends.
//!
//! MSER, the marginal standard error rule: of n samples discard the first d for which the squared standard error of
//! the mean of the rest, Σ (x − mean)² / (n − d)², is least (K. P. White, "An effective truncation heuristic for bias
//! reduction in simulation output", Simulation 69, 1997; compared with others by K. Hoad, S. Robinson and R. Davies,
//! "Automating warm-up length estimation", Journal of the Operational Research Society 61, 2010). It has no parameter
//! to tune; d beyond the first half means that there was no steady state to find.
//!
//! One interrupted batch late in a run outweighs a whole warm-up in a sum of squares. Samples are therefore first
//! clamped to Tukey's outer fences of the second half of the run.
//!
//! The rule alone takes a series whose last few samples are the first fast ones for steady. What it keeps must
//! therefore not fall by the test of Mann and Kendall, which a steady series fails once in twenty times.

use super::trend::falling_trend_p;
use super::{Fences, median};

/// Probability with which a steady series is taken for a falling one.
const FALSE_ALARM: f64 = 0.05;

/// Below this many samples nothing can be told: a quarter of them says what is ordinary.
const MINIMUM_SAMPLES: usize = 8;

/// What is known about the warm-up of a series of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Leading samples to discard.
    pub discard: usize,
    /// Whether a steady state was found within the cap; if not, `discard` is the cap or nothing can be told from so
    /// few samples.
    pub settled: bool,
}

/// How many leading samples of one process are warm-up, `cap` and half of them at most.
///
/// The samples must be of equal work, such as seconds a token where batches differ in length, else the rule sees the
/// work and not the machine. Of a steady series the rule discards a few samples all the same, in the mean one or two.
pub fn detect_warm_up(samples: &[f64], cap: usize) -> WarmUp {
    let count = samples.len();
    let limit = cap.min(count / 2);
    let (Some(centre), Some(fences)) = (
        median(samples).filter(|_| samples.iter().all(|sample| sample.is_finite())),
        Fences::of(&samples[count / 2..]),
    ) else {
        return WarmUp {
            discard: 0,
            settled: false,
        };
    };
    if count < MINIMUM_SAMPLES {
        return WarmUp {
            discard: limit,
            settled: false,
        };
    }
    let (low, high) = fences.outer();
    let clamped = |sample: f64| {
        // Without spread there is no telling what is far out.
        if low < high {
            sample.clamp(low, high)
        } else {
            sample
        }
    };

    // Sums over the samples from each place to the end; differences from the median keep the squares small.
    let (mut sum, mut squares, mut kept) = (0.0, 0.0, 0.0);
    let mut best = (f64::INFINITY, 0);
    for (discard, &sample) in samples.iter().enumerate().rev() {
        let difference = clamped(sample) - centre;
        kept += 1.0;
        sum += difference;
        squares += difference * difference;
        let error = (squares - sum * sum / kept).max(0.0) / (kept * kept);
        // Of equal errors the fewest discarded.
        if discard <= limit && error <= best.0 {
            best = (error, discard);
        }
    }
    let (_, discard) = best;
    let falls = || falling_trend_p(&samples[discard..]).is_some_and(|p| p < FALSE_ALARM);
    WarmUp {
        discard,
        settled: cap == 0 || (discard < limit && !falls()),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as Generator;

    use super::super::test_samples::log_normal;
    use super::*;

    /// `count` times of median 1 that deviate by 3 %, each multiplied by `factor` of its place.
    fn series(count: usize, seed: u64, factor: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut generator = Generator::seed_from_u64(seed);
        (0..count)
            .map(|place| factor(place) * log_normal(0.03, &mut generator))
            .collect()
    }

    /// The rule as published, term by term.
    fn mser_by_definition(samples: &[f64]) -> usize {
        let error = |discard: usize| {
            let kept = &samples[discard..];
            let mean = kept.iter().sum::<f64>() / kept.len() as f64;
            kept.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (kept.len() as f64).powi(2)
        };
        (0..=samples.len() / 2)
            .min_by(|&one, &other| error(one).total_cmp(&error(other)))
            .unwrap()
    }

    #[test]
    fn without_far_values_it_is_the_published_rule() {
        for seed in 0..50 {
            let samples = series(41, seed, |place| if place < 3 { 1.1 } else { 1.0 });
            let fences = Fences::of(&samples[20..]).unwrap().outer();
            if samples
                .iter()
                .all(|&sample| (fences.0..=fences.1).contains(&sample))
            {
                assert_eq!(detect_warm_up(&samples, 41).discard, mser_by_definition(&samples));
            }
        }
    }

    #[test]
    fn slow_first_samples_are_found_in_spite_of_a_late_interruption() {
        let slow_start = |place| match place {
            0..4 => 1.5,
            70 => 20.0,
            _ => 1.0,
        };
        let discarded: Vec<usize> = (0..100)
            .map(|seed| detect_warm_up(&series(80, seed, slow_start), 40))
            .map(|warm_up| {
                assert!(warm_up.discard >= 4, "{warm_up:?}");
                warm_up.discard
            })
            .collect();
        assert!(discarded.iter().filter(|&&discard| discard <= 6).count() >= 75);
    }

    #[test]
    fn a_steady_series_loses_little() {
        let total: usize = (0..200)
            .map(|seed| detect_warm_up(&series(50, seed, |_| 1.0), 25).discard)
            .sum();
        assert!(total < 200 * 3, "{total} of 10 000");
    }

    #[test]
    fn without_noise_it_is_exact() {
        let mut samples = vec![1.0; 20];
        assert_eq!(
            detect_warm_up(&samples, 10),
            WarmUp {
                discard: 0,
                settled: true
            }
        );
        samples[0] = 2.0;
        samples[1] = 1.5;
        assert_eq!(
            detect_warm_up(&samples, 10),
            WarmUp {
                discard: 2,
                settled: true
            }
        );
    }

    #[test]
    fn a_series_that_has_just_become_fast_is_not_steady() {
        let times = |slow: usize, fast: usize| [vec![3.0; slow], vec![1.0; fast]].concat();
        for fast in 2..=7 {
            assert!(!detect_warm_up(&times(6, fast), 50).settled, "{fast}");
        }
        let expected = WarmUp {
            discard: 6,
            settled: true,
        };
        assert_eq!(detect_warm_up(&times(6, 8), 50), expected);
    }

    #[test]
    fn the_cap_is_kept_and_said() {
        let drifting: Vec<f64> = (0..40).map(|place| 2.0 - f64::from(place) / 40.0).collect();
        assert_eq!(
            detect_warm_up(&drifting, 5),
            WarmUp {
                discard: 5,
                settled: false
            }
        );
        assert_eq!(
            detect_warm_up(&drifting, 100),
            WarmUp {
                discard: 20,
                settled: false
            }
        );
        assert_eq!(
            detect_warm_up(&[2.0, 1.0, 1.0], 5),
            WarmUp {
                discard: 1,
                settled: false
            }
        );
        assert_eq!(
            detect_warm_up(&[], 5),
            WarmUp {
                discard: 0,
                settled: false
            }
        );
        assert_eq!(
            detect_warm_up(&[1.0; 9], 0),
            WarmUp {
                discard: 0,
                settled: true
            }
        );
    }
}
