//! Times of work of several kinds: batches that differ in length take different times on the quietest machine, and what
//! they differ by is no noise.
//!
//! Samples are grouped by kind (batches of one shape). The typical time is the mean over the batches of a pass of the
//! median of their kind, the robust counterpart of their mean time: with one kind it is the median. Intervals come from a stratified bootstrap
//! (A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application", 1997, section 3.2): samples are drawn
//! within their kind, so that what kinds differ by does not widen them.

use rand::{Rng, RngExt};

use super::bootstrap::{Interval, block_percentiles, ends, flat_percentiles, median_in_place};
use super::{mean_interval, median};

/// Fewest samples for an interval within one process: one between the extremes of n samples covers
/// 1 − 2^(1 − n) at most, 97 % with 6.
const FEWEST_SAMPLES: usize = 6;

/// Fewest samples of each kind for an interval within one process, where there are several kinds. Drawn from
/// themselves, two samples vary half as much as they should; in simulations of 2, 7 and 25 kinds the interval covers 66
/// to 79 % with two samples each, 90 to 97 % with three, 92 to 99 % beyond.
const FEWEST_OF_A_KIND: usize = 3;

/// Fewest blocks that are resampled. No interval between the extremes of k blocks covers more than 1 − 2^(1 − k) where
/// blocks differ much: 75 % with 3, 94 % with 5.
const FEWEST_RESAMPLED_BLOCKS: usize = 6;

/// Most draws for one interval, which bounds its cost to about a second.
const MOST_DRAWS: usize = 50_000_000;

/// Fewest resamples, whatever they cost: the 2.5 % quantile is then between the 10th and the 11th.
pub const FEWEST_RESAMPLES: usize = 400;

/// Samples grouped by kind of work.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedSamples {
    kinds: Vec<Kind>,
    /// Place of each sample's kind, in the order of the samples.
    kind_of_sample: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Kind {
    /// Pieces of work of this kind in a pass.
    pieces: usize,
    samples: Vec<f64>,
    median: f64,
}

impl GroupedSamples {
    /// Groups `samples`, taken in passes over pieces of work, pass after pass: sample `i` is of the piece
    /// `i mod kinds.len()`, whose kind is `kinds[i mod kinds.len()]`. Without `kinds` all samples are of one.
    ///
    /// `None` without samples, without a sample of some kind, or when a sample is not finite.
    pub fn of<K: PartialEq>(samples: &[f64], kinds: &[K]) -> Option<Self> {
        if samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let mut distinct: Vec<&K> = Vec::new();
        let mut kind_of_piece = Vec::with_capacity(kinds.len().max(1));
        for kind in kinds {
            let place = distinct.iter().position(|known| *known == kind);
            kind_of_piece.push(place.unwrap_or_else(|| {
                distinct.push(kind);
                distinct.len() - 1
            }));
        }
        if kind_of_piece.is_empty() {
            kind_of_piece.push(0);
        }
        let pieces = kind_of_piece.len();
        let kind_of_sample: Vec<usize> = (0..samples.len())
            .map(|sample| kind_of_piece[sample % pieces])
            .collect();
        let kinds = (0..distinct.len().max(1)).map(|place| {
            let of_kind = kind_of_sample.iter().zip(samples);
            let samples: Vec<f64> = of_kind
                .filter(|(kind, _)| **kind == place)
                .map(|(_, &sample)| sample)
                .collect();
            Some(Kind {
                pieces: kind_of_piece.iter().filter(|kind| **kind == place).count(),
                median: median(&samples)?,
                samples,
            })
        });
        Some(Self {
            kinds: kinds.collect::<Option<_>>()?,
            kind_of_sample,
        })
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.kind_of_sample.len()
    }

    /// The typical time: the mean over the pieces of a pass of the median of their kind. With one kind the median.
    pub fn median(&self) -> f64 {
        typical(&self.kinds, self.kinds.iter().map(|kind| kind.median))
    }

    /// The samples, in their order, with what kinds differ by taken out: each times the typical time over the median of
    /// its kind. With one kind the samples themselves.
    pub fn adjusted(&self, samples: &[f64]) -> Vec<f64> {
        let typical = self.median();
        let one_kind = self.kinds.len() == 1;
        let adjust = |(&sample, &kind): (&f64, &usize)| match self.kinds[kind].median {
            _ if one_kind => sample,
            median if median > 0.0 => sample * typical / median,
            _ => sample,
        };
        samples.iter().zip(&self.kind_of_sample).map(adjust).collect()
    }

    /// 95 % percentile interval of [`Self::median`] within one process; with one kind that of
    /// [`super::median_interval_percentile`]. `None` below 6 samples, below 3 of one of several kinds, and without
    /// resamples.
    pub fn interval(&self, resamples: usize, generator: &mut impl Rng) -> Option<Interval> {
        let few = |kind: &Kind| kind.samples.len() < FEWEST_OF_A_KIND;
        if self.count() < FEWEST_SAMPLES || self.kinds.iter().any(few) {
            return None;
        }
        let medians = resampled(&[self], resamples, generator, |_| 0);
        ends(&medians, flat_percentiles())
    }
}

/// 95 % interval of the typical time over blocks (one a process).
///
/// From 6 blocks on, blocks are drawn first, then samples of each kind within each drawn block; the samples of a kind are
/// pooled over the drawn blocks. With one kind it is [`super::median_interval_hierarchical`]. Fewer blocks say too little
/// of how blocks differ to be drawn from: theirs is the interval of Student's t of the logarithms of the blocks' typical
/// times, as wide as it has to be.
///
/// `None` below two blocks, when the blocks are not of the same kinds of work, and without resamples.
pub fn grouped_median_interval(
    blocks: &[GroupedSamples],
    resamples: usize,
    generator: &mut impl Rng,
) -> Option<Interval> {
    if blocks.len() < 2 || !of_the_same_work(blocks) {
        return None;
    }
    if blocks.len() < FEWEST_RESAMPLED_BLOCKS {
        return interval_of_few(blocks);
    }
    let all: Vec<&GroupedSamples> = blocks.iter().collect();
    let count = blocks.len();
    let medians = resampled(&all, resamples, generator, |generator| {
        generator.random_range(0..count)
    });
    ends(&medians, block_percentiles(count)?)
}

/// Student's interval of the logarithms of typical times, which vary by factors.
fn interval_of_few(blocks: &[GroupedSamples]) -> Option<Interval> {
    let logarithms: Vec<f64> = blocks.iter().map(|block| block.median().ln()).collect();
    let Interval { low, high } = mean_interval(&logarithms).filter(|interval| interval.low.is_finite())?;
    Some(Interval {
        low: low.exp(),
        high: high.exp(),
    })
}

/// The typical time of all samples of `blocks`, those of a kind pooled; `None` without blocks or when they are not of
/// the same kinds of work.
pub fn grouped_median(blocks: &[GroupedSamples]) -> Option<f64> {
    let kinds = &blocks.first().filter(|_| of_the_same_work(blocks))?.kinds;
    let medians = (0..kinds.len()).map(|place| {
        let samples = blocks.iter().map(|block| block.kinds[place].samples.as_slice());
        median(&samples.collect::<Vec<_>>().concat())
    });
    Some(typical(kinds, medians.collect::<Option<Vec<_>>>()?.into_iter()))
}

fn of_the_same_work(blocks: &[GroupedSamples]) -> bool {
    let pieces = |block: &GroupedSamples| block.kinds.iter().map(|kind| kind.pieces).collect::<Vec<_>>();
    blocks.windows(2).all(|pair| pieces(&pair[0]) == pieces(&pair[1]))
}

/// The mean over the pieces of a pass, of a value of each kind.
fn typical(kinds: &[Kind], values: impl Iterator<Item = f64>) -> f64 {
    let total: f64 = kinds
        .iter()
        .zip(values)
        .map(|(kind, value)| kind.pieces as f64 * value)
        .sum();
    total / kinds.iter().map(|kind| kind.pieces).sum::<usize>() as f64
}

/// Resampled typical times: as many blocks as there are, picked by `pick`, and of each kind in each as many samples as
/// it has.
fn resampled<G: Rng>(
    blocks: &[&GroupedSamples],
    resamples: usize,
    generator: &mut G,
    mut pick: impl FnMut(&mut G) -> usize,
) -> Vec<f64> {
    let samples: usize = blocks.iter().map(|block| block.count()).sum();
    let affordable = (MOST_DRAWS / samples.max(1)).max(FEWEST_RESAMPLES);
    let kinds = blocks.first().map_or(&[][..], |block| &block.kinds);
    let mut drawn: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    (0..resamples.min(affordable))
        .map(|_| {
            drawn.iter_mut().for_each(Vec::clear);
            for _ in 0..blocks.len() {
                let block = blocks[pick(generator)];
                for (drawn, kind) in drawn.iter_mut().zip(&block.kinds) {
                    let samples = &kind.samples;
                    drawn.extend(
                        (0..samples.len()).map(|_| samples[generator.random_range(0..samples.len())]),
                    );
                }
            }
            typical(kinds, drawn.iter_mut().map(|drawn| median_in_place(drawn)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as Generator;

    use super::super::test_samples::{TIMES, log_normal};
    use super::super::{median_interval_hierarchical, median_interval_percentile};
    use super::*;

    const ONE_KIND: [u8; 1] = [0];

    fn grouped(samples: &[f64], kinds: &[u8]) -> GroupedSamples {
        GroupedSamples::of(samples, kinds).unwrap()
    }

    #[test]
    fn kinds_are_weighed_by_their_pieces_in_a_pass() {
        // Two passes over three batches, the first and the third of one shape: medians 1.5 and 10.5.
        let samples = [1.0, 10.0, 2.0, 1.0, 11.0, 2.0];
        let grouped = grouped(&samples, &[4, 9, 4]);
        assert!((grouped.median() - (2.0 * 1.5 + 10.5) / 3.0).abs() < 1e-12);
        // 4.5 · 1 / 1.5 and so on, by hand.
        let adjusted = grouped.adjusted(&samples);
        for (found, expected) in adjusted.iter().zip([3.0, 4.285_714_285_714_286, 6.0]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
    }

    #[test]
    fn one_kind_is_the_plain_median_with_its_intervals() {
        let seeded = || Generator::seed_from_u64(5);
        let one = grouped(&TIMES, &[]);
        assert_eq!((one.count(), one.median()), (21, 100.5));
        assert_eq!(one.adjusted(&TIMES), TIMES);
        assert_eq!(
            one.interval(999, &mut seeded()),
            median_interval_percentile(&TIMES, 999, &mut seeded())
        );
        let parts: Vec<&[f64]> = TIMES.chunks(3).collect();
        let blocks: Vec<GroupedSamples> = parts.iter().map(|part| grouped(part, &ONE_KIND)).collect();
        assert_eq!(grouped_median(&blocks), Some(100.5));
        assert_eq!(
            grouped_median_interval(&blocks, 999, &mut seeded()),
            median_interval_hierarchical(&parts, 999, &mut seeded())
        );
    }

    #[test]
    fn what_kinds_differ_by_does_not_widen_the_interval() {
        let mut generator = Generator::seed_from_u64(6);
        let samples: Vec<f64> = (0..60)
            .map(|place| f64::from(1 + place % 2) * log_normal(0.01, &mut generator))
            .collect();
        let width = |kinds: &[u8], generator: &mut Generator| {
            let grouped = grouped(&samples, kinds);
            grouped.interval(999, generator).unwrap().half_width() / grouped.median()
        };
        assert!(width(&[1, 2], &mut generator) < 0.005);
        assert!(width(&[], &mut generator) > 0.1);
    }

    #[test]
    fn too_few_samples_have_no_interval() {
        let mut generator = Generator::seed_from_u64(7);
        let mut interval = |count: usize, kinds: &[u8]| {
            let samples: Vec<f64> = (0..count).map(|place| 1.0 + place as f64).collect();
            grouped(&samples, kinds).interval(99, &mut generator)
        };
        assert!(interval(5, &[]).is_none() && interval(6, &[]).is_some());
        assert!(interval(8, &[1, 2, 3, 4]).is_none() && interval(12, &[1, 2, 3, 4]).is_some());
        assert_eq!(GroupedSamples::of(&[], &ONE_KIND), None);
        assert_eq!(GroupedSamples::of(&[1.0, f64::NAN], &ONE_KIND), None);
        assert_eq!(
            GroupedSamples::of(&[1.0], &[1, 2]),
            None,
            "no sample of the second"
        );
    }

    #[test]
    fn blocks_of_different_work_have_no_common_interval() {
        let mut generator = Generator::seed_from_u64(8);
        let blocks = [grouped(&TIMES, &[1]), grouped(&TIMES, &[1, 2, 3])];
        assert_eq!(grouped_median_interval(&blocks, 99, &mut generator), None);
        assert_eq!(grouped_median(&blocks), None);
        assert_eq!(grouped_median_interval(&blocks[..1], 99, &mut generator), None);
    }

    #[test]
    fn the_interval_of_few_blocks_is_scipys() {
        // np.exp(st.t.interval(.95, 2, loc=l.mean(), scale=st.sem(l))) with l = np.log([1.0, 1.3, 0.9]); scipy 1.17.1
        let blocks = [1.0, 1.3, 0.9].map(|level| grouped(&[level], &ONE_KIND));
        let interval = grouped_median_interval(&blocks, 99, &mut Generator::seed_from_u64(4)).unwrap();
        assert!(
            (interval.low - 0.658_311_437_553_742_6).abs() < 1e-8
                && (interval.high - 1.686_653_378_352_808).abs() < 1e-8,
            "{interval:?}"
        );
    }

    /// Shares of 2000 simulated intervals, whose standard error is 0.5 %: few blocks and many, those that hardly differ
    /// and those that differ by far more than samples.
    #[test]
    fn intervals_over_blocks_cover_the_typical_time() {
        for (blocks, between) in [2, 3, 4, 5]
            .into_iter()
            .flat_map(|blocks| [0.0, 0.03, 0.1].map(|between| (blocks, between)))
            .chain([(6, 0.03), (8, 0.03), (8, 0.1)])
        {
            let mut generator = Generator::seed_from_u64(2025);
            let covered = (0..2000)
                .filter(|_| {
                    let blocks: Vec<GroupedSamples> = (0..blocks)
                        .map(|_| {
                            let level = log_normal(between, &mut generator);
                            let samples: Vec<f64> = (0..15)
                                .map(|_| level * log_normal(0.03, &mut generator))
                                .collect();
                            grouped(&samples, &ONE_KIND)
                        })
                        .collect();
                    let interval = grouped_median_interval(&blocks, 400, &mut generator);
                    interval.unwrap().contains(1.0)
                })
                .count();
            let share = covered as f64 / 2000.0;
            assert!(
                (0.93..=0.97).contains(&share),
                "{blocks} blocks that differ by {between}: {share}"
            );
        }
    }

    /// Shares of 2000 simulated intervals, whose standard error is 0.5 %, between the bounds that
    /// [`FEWEST_OF_A_KIND`] names; the true typical time is known since medians of log-normal times are.
    #[test]
    fn intervals_cover_the_typical_time_of_batches_that_differ() {
        const SECONDS: [f64; 7] = [1.0, 0.5, 2.0, 1.2, 0.9, 1.7, 0.3];
        let truth = SECONDS.iter().sum::<f64>() / 7.0;
        let kinds: Vec<u8> = (0..7).collect();
        let mut generator = Generator::seed_from_u64(9);
        for (passes, bounds) in [(3, 0.93..=0.99), (8, 0.93..=0.99)] {
            let covered = (0..2000)
                .filter(|_| {
                    let samples: Vec<f64> = (0..passes * 7)
                        .map(|place| SECONDS[place % 7] * log_normal(0.03, &mut generator))
                        .collect();
                    let interval = grouped(&samples, &kinds).interval(400, &mut generator);
                    interval.unwrap().contains(truth)
                })
                .count();
            let share = covered as f64 / 2000.0;
            assert!(bounds.contains(&share), "{passes} passes: {share}");
        }
    }
}
