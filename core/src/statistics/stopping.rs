//! When enough samples have been taken.

use std::time::Duration;

use rand::Rng;

use super::GroupedSamples;

/// Resamples for a decision: the interval's ends then move by a few per cent of its width from seed to seed.
const RESAMPLES: usize = 1_000;

/// Most draws for a decision, about 10 ms, unless [`FEWEST_RESAMPLES`] take more.
const MOST_DRAWS: usize = 1_000_000;
const FEWEST_RESAMPLES: usize = 200;

/// Stop when the typical time is known well enough, or when the time is spent.
///
/// Well enough is a relative half-width of the 95 % bootstrap interval of at most the target. Looking at it again and
/// again and stopping at the first narrow one makes the interval a little too narrow; the reported one should be computed
/// over all blocks ([`super::grouped_median_interval`]), each of which stops on its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoppingRule {
    /// Half of the interval's width over the median, such as 0.01.
    pub target_relative_half_width: f64,
    /// Time after which sampling stops anyway.
    pub time_budget: Duration,
    /// Samples without which nothing counts as known; with fewer than about 10 an interval is often narrow by chance.
    pub minimum_samples: usize,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take more samples.
    Continue,
    /// The typical time is known as well as was asked for.
    Converged,
    /// The time is spent and the typical time is not known as well as was asked for.
    BudgetSpent,
}

impl StoppingRule {
    /// Decides after `samples`, warm-up left out, when sampling would have taken `until_next` at the end of what would
    /// be sampled next.
    ///
    /// It costs up to a thousand draws a sample: call it at the counts that [`Self::next_look`] gives, and when the
    /// time is spent.
    pub fn decide(
        &self,
        samples: &GroupedSamples,
        until_next: Duration,
        generator: &mut impl Rng,
    ) -> Decision {
        let precise = |generator| {
            let affordable = (MOST_DRAWS / samples.count()).clamp(FEWEST_RESAMPLES, RESAMPLES);
            let interval = samples.interval(affordable, generator);
            interval.is_some_and(|interval| {
                interval.half_width() <= self.target_relative_half_width * samples.median()
            })
        };
        if samples.count() >= self.minimum_samples && precise(generator) {
            Decision::Converged
        } else if until_next > self.time_budget {
            Decision::BudgetSpent
        } else {
            Decision::Continue
        }
    }

    /// Count of samples at which to decide next: a quarter more than `count`, the minimum at least, so that deciding
    /// costs little beside sampling.
    pub fn next_look(&self, count: usize) -> usize {
        (count + (count / 4).max(1)).max(self.minimum_samples)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as Generator;

    use super::super::{median, test_samples::log_normal};
    use super::*;

    const RULE: StoppingRule = StoppingRule {
        target_relative_half_width: 0.01,
        time_budget: Duration::from_secs(5),
        minimum_samples: 10,
    };

    fn one_kind(samples: &[f64]) -> GroupedSamples {
        GroupedSamples::of::<()>(samples, &[]).unwrap()
    }

    fn decide(samples: &[f64], seconds: u64) -> Decision {
        RULE.decide(
            &one_kind(samples),
            Duration::from_secs(seconds),
            &mut Generator::seed_from_u64(1),
        )
    }

    #[test]
    fn a_narrow_interval_converges_and_a_wide_one_runs_out_of_time() {
        let steady = [1.0, 1.001, 0.999, 1.0, 1.002, 0.998, 1.0, 1.001, 0.999, 1.0];
        let busy = [1.0, 1.3, 0.9, 1.1, 1.5, 0.8, 1.2, 1.0, 1.4, 0.9];
        assert_eq!(decide(&steady, 1), Decision::Converged);
        assert_eq!(decide(&steady, 9), Decision::Converged);
        assert_eq!(decide(&busy, 1), Decision::Continue);
        assert_eq!(decide(&busy, 5), Decision::Continue, "the next ends in time");
        assert_eq!(decide(&busy, 6), Decision::BudgetSpent);
    }

    #[test]
    fn without_the_minimum_nothing_is_known() {
        assert_eq!(decide(&[1.0; 9], 1), Decision::Continue);
        assert_eq!(decide(&[1.0; 9], 60), Decision::BudgetSpent);
        assert_eq!(decide(&[1.0; 10], 60), Decision::Converged);
    }

    /// The standard error of the median of n log-normal times that deviate by 3 % is about 1.2533 · 0.03 / √n, hence
    /// 1.96 of them are 1 % at n = 54.
    #[test]
    fn it_stops_where_the_normal_approximation_says() {
        let mut generator = Generator::seed_from_u64(3);
        let mut counts: Vec<f64> = (0..40)
            .map(|_| {
                let mut samples = Vec::new();
                let mut next = RULE.next_look(0);
                loop {
                    samples.push(log_normal(0.03, &mut generator));
                    if samples.len() < next {
                        continue;
                    }
                    let grouped = one_kind(&samples);
                    if RULE.decide(&grouped, Duration::ZERO, &mut generator) == Decision::Converged {
                        return samples.len() as f64;
                    }
                    next = RULE.next_look(samples.len());
                }
            })
            .collect();
        counts.sort_by(f64::total_cmp);
        let middle = median(&counts).unwrap();
        // Stopping at the first narrow interval stops early rather than late.
        assert!((27.0..=60.0).contains(&middle), "{middle}");
    }

    #[test]
    fn looks_become_rarer() {
        assert_eq!(
            [0, 9, 10, 19, 20, 1000].map(|count| RULE.next_look(count)),
            [10, 11, 12, 23, 25, 1250]
        );
    }
}
