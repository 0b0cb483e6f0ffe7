//! Quantiles over all positions, with intervals by R. S. Woodruff's method ("Confidence intervals for medians and other
//! position measures", Journal of the American Statistical Association 47, 1952).
//!
//! The share of positions whose value is at most the quantile is a mean of clustered values, of which the bootstrap over
//! clusters gives an interval. What it reaches below and above the share found, the quantile's probability may be off;
//! the quantiles at the two probabilities are the ends. Nothing is sorted for a resample, so that the values stay where
//! they are, and memory holds eleven counts a cluster. An end cannot lie beyond the values found.

use std::io;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;

use crate::results::{Distribution, Estimate};
use crate::statistics::{RESAMPLES, StreamedValues, cluster_intervals};

const QUANTILES: usize = Distribution::PROBABILITIES.len();
/// Those with an interval: all but the smallest and the largest value.
const INNER: usize = QUANTILES - 2;

/// How many values a cluster has, and how many of them are at most each inner quantile.
#[derive(Clone, Default)]
struct Counts {
    all: u64,
    at_most: [u64; INNER],
}

/// The quantiles of a [`Distribution`]. `runs` says of which of the `clusters` the values are, in the order in which they
/// were added, and how many of it follow each other.
///
/// # Errors
/// The disk's.
pub(super) fn quantiles(
    values: &mut StreamedValues,
    runs: impl Iterator<Item = (usize, u64)>,
    clusters: usize,
    seed: u64,
) -> io::Result<[Estimate; QUANTILES]> {
    let found = values.quantiles(&Distribution::PROBABILITIES)?;
    let mut quantiles = std::array::from_fn(|index| Estimate {
        value: found[index],
        interval: None,
    });
    let limits: [f64; INNER] = std::array::from_fn(|index| found[index + 1]);
    let counts = count(values, runs, clusters, &limits)?;
    let shares = |times: &[u32]| {
        let (mut all, mut at_most) = (0.0, [0.0; INNER]);
        for (counts, &times) in counts.iter().zip(times).filter(|&(_, &times)| times > 0) {
            let times = f64::from(times);
            all += times * counts.all as f64;
            for (sum, count) in at_most.iter_mut().zip(counts.at_most) {
                *sum += times * count as f64;
            }
        }
        at_most.map(|sum| sum / all)
    };
    let share = shares(&vec![1; clusters]);
    let intervals = cluster_intervals(clusters, RESAMPLES, &mut Generator::seed_from_u64(seed), shares);
    let probability = |index: usize, end: f64| {
        (Distribution::PROBABILITIES[index + 1] + end - share[index]).clamp(0.0, 1.0)
    };
    let known = || {
        intervals
            .iter()
            .enumerate()
            .filter_map(|(index, interval)| Some((index, (*interval)?)))
    };
    let lows: Vec<f64> = known()
        .map(|(index, interval)| probability(index, interval.low))
        .collect();
    let highs: Vec<f64> = known()
        .map(|(index, interval)| probability(index, interval.high))
        .collect();
    let ends = values
        .quantiles(&lows)?
        .into_iter()
        .zip(values.quantiles(&highs)?);
    for ((index, mut interval), (low, high)) in known().zip(ends) {
        (interval.low, interval.high) = (low, high);
        quantiles[index + 1].interval = Some(interval);
    }
    Ok(quantiles)
}

fn count(
    values: &mut StreamedValues,
    mut runs: impl Iterator<Item = (usize, u64)>,
    clusters: usize,
    limits: &[f64; INNER],
) -> io::Result<Vec<Counts>> {
    let mut counts = vec![Counts::default(); clusters];
    let (mut cluster, mut left) = (0, 0);
    values.for_each(|value| {
        while left == 0 {
            let Some(run) = runs.next() else { return };
            (cluster, left) = run;
        }
        left -= 1;
        let counts = &mut counts[cluster];
        counts.all += 1;
        for (count, &limit) in counts.at_most.iter_mut().zip(limits) {
            *count += u64::from(value <= limit);
        }
    })?;
    Ok(counts)
}
