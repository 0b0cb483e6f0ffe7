use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;

use super::super::test_samples::{TIMES, log_normal};
use super::*;

type Method = fn(&[f64], usize, &mut Generator) -> Option<Interval>;

const FLAT: [Method; 2] = [median_interval_percentile, median_interval_bca];

/// Resamples with which the ends of the fixtures' intervals are the same for every seed.
const MANY: usize = 99_999;

fn generator(seed: u64) -> Generator {
    Generator::seed_from_u64(seed)
}

/// `scipy.stats.bootstrap((TIMES,), numpy.median, n_resamples=99999, method=…, random_state=…)` of scipy 1.17.1 gives
/// the same interval for each of three seeds, with 'percentile' as with 'BCa'; so it does with 107.25 appended. The
/// resampled median of an odd sample is one of its values, which leaves nothing to a tolerance.
#[test]
fn flat_intervals_are_scipys() {
    let mut even = TIMES.to_vec();
    even.push(107.25);
    for method in FLAT {
        for seed in 0..3 {
            let interval = |samples: &[f64]| method(samples, MANY, &mut generator(seed)).unwrap();
            assert_eq!(
                interval(&TIMES),
                Interval {
                    low: 99.0,
                    high: 101.5
                }
            );
            assert_eq!(
                interval(&even),
                Interval {
                    low: 99.0,
                    high: 102.0
                }
            );
        }
    }
}

/// A skewed sample whose two intervals differ: `numpy.round(100 * numpy.exp(2 * (numpy.arange(1, 11) / 41) ** 3), 2)`,
/// made and judged as above.
#[test]
fn bca_corrects_as_scipys_does() {
    /// The mean of two values with two decimals.
    const ROUNDING: f64 = 1e-12;
    let samples = [
        100.0, 100.02, 100.08, 100.19, 100.36, 100.63, 101.0, 101.5, 102.14, 102.94,
    ];
    for (method, high) in FLAT.into_iter().zip([101.57, 101.5]) {
        for seed in 0..3 {
            let interval = method(&samples, MANY, &mut generator(seed)).unwrap();
            assert!((interval.low - 100.08).abs() < ROUNDING, "{interval:?}");
            assert!((interval.high - high).abs() < ROUNDING, "{interval:?}");
        }
    }
}

/// A sample with ties about its median, hence with a bias; scipy gives this interval for four seeds, and another one
/// without either term of the bias.
#[test]
fn bca_of_ties_is_scipys() {
    let samples = [
        100.5, 100.6, 102.2, 104.1, 106.2, 106.4, 107.1, 107.3, 107.3, 107.3, 118.4, 118.4, 133.3, 136.9,
        137.4,
    ];
    let interval = median_interval_bca(&samples, MANY, &mut generator(1)).unwrap();
    assert_eq!((interval.low, interval.high), (106.4, 133.3));
}

/// `u = j.mean() - j; (u ** 3).sum() / (6 * (u ** 2).sum() ** 1.5)` of the medians j without each value in turn.
#[test]
fn the_acceleration_is_that_of_the_jackknife() {
    /// A few roundings of f64.
    const ROUNDING: f64 = 1e-12;
    let samples = [
        100.0, 100.02, 100.08, 100.19, 100.36, 101.63, 103.0, 104.5, 109.14,
    ];
    assert!((acceleration(&samples).unwrap() - 0.011_589_122_344_536_743).abs() < ROUNDING);
    assert_eq!(acceleration(&[3.0; 4]), Some(0.0));
}

/// Six blocks of five, resampled 200 000 times with numpy (`numpy.median` of `x[bi[:, :, None], si]` with uniform block
/// and sample indexes), give 0.99 and 1.04 at the quantiles Φ(±t) for each of the seeds 0 to 2.
#[test]
fn the_hierarchical_interval_is_numpys() {
    /// Medians come in steps of 0.005.
    const ROUNDING: f64 = 1e-12;
    let blocks = [
        [1.00, 1.02, 0.99, 1.01, 1.05],
        [1.03, 1.04, 1.02, 1.06, 1.01],
        [0.97, 0.99, 0.98, 1.00, 0.96],
        [1.01, 1.00, 1.02, 1.03, 0.99],
        [1.05, 1.06, 1.04, 1.08, 1.03],
        [0.99, 1.01, 1.00, 0.98, 1.02],
    ];
    let Interval { low, high } = median_interval_hierarchical(&blocks, MANY, &mut generator(1)).unwrap();
    assert!((low - 0.99).abs() < ROUNDING, "{low}");
    assert!((high - 1.04).abs() < ROUNDING, "{high}");
}

#[test]
fn a_seed_gives_one_interval() {
    let blocks = [&TIMES[..7], &TIMES[7..14], &TIMES[14..]];
    let once = median_interval_hierarchical(&blocks, 500, &mut generator(7));
    assert_eq!(
        once,
        median_interval_hierarchical(&blocks, 500, &mut generator(7))
    );
    let once = median_interval_bca(&TIMES, 500, &mut generator(7));
    assert_eq!(once, median_interval_bca(&TIMES, 500, &mut generator(7)));
}

#[test]
fn what_does_not_vary_has_no_width_and_what_cannot_vary_no_interval() {
    let none: [&[f64]; 4] = [&[], &[1.0], &[1.0, f64::NAN], &[1.0, f64::INFINITY]];
    for method in FLAT {
        for samples in none {
            assert_eq!(method(samples, 100, &mut generator(1)), None);
        }
        assert_eq!(method(&[1.0, 2.0], 0, &mut generator(1)), None);
        let interval = method(&[3.0; 4], 100, &mut generator(1)).unwrap();
        assert_eq!((interval.low, interval.high), (3.0, 3.0));
    }
    let hierarchical = |blocks: &[&[f64]]| median_interval_hierarchical(blocks, 100, &mut generator(1));
    assert_eq!(hierarchical(&[&[1.0, 2.0]]), None);
    assert_eq!(hierarchical(&[&[1.0, 2.0], &[]]), None);
    assert_eq!(hierarchical(&[&[1.0, 2.0], &[f64::NAN]]), None);
    assert!(hierarchical(&[&[1.0], &[2.0]]).unwrap().half_width() > 0.0);
}

/// Bounds of the share of 95 % intervals that hold the true median. The share of 3000 simulated intervals has a
/// standard error of 0.4 %.
const COVERAGE: std::ops::RangeInclusive<f64> = 0.93..=0.97;
const TRIALS: usize = 3000;
/// Resamples in simulations, enough for coverage.
const FEW: usize = 400;

fn coverage(mut interval: impl FnMut(&mut Generator) -> Option<Interval>) -> f64 {
    let mut generator = generator(2024);
    let covered = (0..TRIALS)
        .filter(|_| interval(&mut generator).unwrap().contains(1.0))
        .count();
    covered as f64 / TRIALS as f64
}

#[test]
fn flat_intervals_cover_the_median_of_skewed_times() {
    for method in FLAT {
        for count in [30, 50, 101] {
            let share = coverage(|generator| {
                let samples: Vec<f64> = (0..count).map(|_| log_normal(0.5, generator)).collect();
                method(&samples, FEW, generator)
            });
            assert!(COVERAGE.contains(&share), "{count} samples: {share}");
        }
    }
}

#[test]
fn the_hierarchical_interval_covers_the_median_when_blocks_differ() {
    for (blocks, between) in [(6, 0.03), (10, 0.03), (10, 0.06)] {
        let share = coverage(|generator| {
            let blocks: Vec<Vec<f64>> = (0..blocks)
                .map(|_| {
                    let level = log_normal(between, generator);
                    (0..15).map(|_| level * log_normal(0.03, generator)).collect()
                })
                .collect();
            median_interval_hierarchical(&blocks, FEW, generator)
        });
        assert!(
            COVERAGE.contains(&share),
            "{blocks} blocks that differ by {between}: {share}"
        );
    }
}
