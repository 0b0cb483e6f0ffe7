//! When the warm-up ends, and how often each batch is timed. Knows neither models nor the machine's clock.
//!
//! After the warm-up the batches run in whole passes, each batch once a pass, so that all modes and repeats time the same
//! work in the same proportions. A first pass is always finished; another one begins as long as the typical time of a
//! batch is not known well enough and the pass can be expected to end within the time budget.

use std::time::Duration;

use qbench_sdk::Result;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use crate::statistics::{Decision, GroupedSamples, StoppingRule, detect_warm_up};

/// Most batches of a warm-up that ends by detection.
const MOST_WARM_UP_BATCHES: usize = 50;

/// Share of the time budget that a warm-up may take that ends by detection.
const WARM_UP_SHARE: f64 = 0.2;

/// See [`StoppingRule::minimum_samples`].
const MINIMUM_SAMPLES: usize = 10;

/// How a cell is timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingSettings {
    /// Batches of the warm-up; `None` for as many as it takes until the times are steady, 50 and a fifth of the time
    /// budget at most.
    pub warm_up: Option<usize>,
    /// Sampling stops when the 95 % interval of the typical time of a batch reaches no farther to either side than this
    /// share of it.
    pub target_ci: f64,
    /// Seconds that sampling may take, but for the first pass.
    pub time_budget_seconds: f64,
}

/// Batches that can be run and timed.
pub trait TimedWork {
    /// Number of batches of a pass.
    fn batches(&self) -> usize;

    /// What batch `batch` has in common with batches of equal work, such as its shape.
    fn kind(&self, batch: usize) -> (usize, usize);

    /// Positions that batch `batch` computes, padding included.
    fn positions(&self, batch: usize) -> usize {
        let (sequences, length) = self.kind(batch);
        sequences * length
    }

    /// Runs batch `batch` to its end, the device's part included.
    ///
    /// # Errors
    /// The model's.
    fn run(&mut self, batch: usize) -> Result<()>;

    /// What is done after each [`Self::run`], outside the timed part. Returns the seconds of that run by the device's own
    /// clock, where there is one.
    ///
    /// # Errors
    /// The device's.
    fn finish(&mut self, batch: usize) -> Result<Option<f64>>;
}

/// The batches that ran before the timed ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WarmUpRun {
    /// Seconds of each batch.
    pub batch_seconds: Vec<f64>,
    /// Whether the times were found to be steady at its end; `None` where the number of batches was given.
    pub settled: Option<bool>,
}

/// Why sampling stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convergence {
    /// The typical time of a batch is known as well as was asked for.
    Converged,
    /// The time budget was spent before that.
    NotConverged,
}

impl Convergence {
    /// The word used in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::NotConverged => "not_converged",
        }
    }
}

/// The timed passes of a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedPasses {
    /// Seconds of each batch by the host's clock, pass after pass.
    pub batch_seconds: Vec<f64>,
    /// Seconds of each batch by the device's clock, in the same order; empty where there is no such clock.
    pub device_seconds: Vec<f64>,
    /// Number of passes.
    pub passes: usize,
    /// Why sampling stopped.
    pub convergence: Convergence,
}

/// Runs batches in their order, over and over, until they are warm.
///
/// By detection that is when the marginal standard error rule ([`detect_warm_up`]) finds the first batches slower and
/// the later ones steady. It sees seconds a position, since batches may differ in length.
///
/// # Errors
/// The work's.
pub fn warm_up(
    work: &mut dyn TimedWork,
    clock: &dyn Clock,
    settings: &SamplingSettings,
) -> Result<WarmUpRun> {
    let (most, limit) = match settings.warm_up {
        Some(batches) => (batches, Duration::MAX),
        None => (
            MOST_WARM_UP_BATCHES,
            seconds(settings.time_budget_seconds * WARM_UP_SHARE),
        ),
    };
    let start = clock.now();
    let mut run = WarmUpRun {
        batch_seconds: Vec::new(),
        settled: settings.warm_up.is_none().then_some(false),
    };
    let mut of_a_position = Vec::new();
    for batch in (0..work.batches()).cycle().take(most) {
        let (seconds, _) = time(work, batch, clock)?;
        run.batch_seconds.push(seconds);
        of_a_position.push(seconds / work.positions(batch).max(1) as f64);
        if settings.warm_up.is_none() {
            let settled = detect_warm_up(&of_a_position, MOST_WARM_UP_BATCHES).settled;
            run.settled = Some(settled);
            if settled || clock.now().saturating_sub(start) >= limit {
                break;
            }
        }
    }
    Ok(run)
}

/// Times whole passes over the batches until the typical time of a batch is known well enough or the budget is spent.
/// `seed` is that of the bootstrap. Without batches there is nothing to do, which converges.
///
/// # Errors
/// The work's.
pub fn sample(
    work: &mut dyn TimedWork,
    clock: &dyn Clock,
    settings: &SamplingSettings,
    seed: u64,
) -> Result<TimedPasses> {
    let rule = StoppingRule {
        target_relative_half_width: settings.target_ci,
        time_budget: seconds(settings.time_budget_seconds),
        minimum_samples: MINIMUM_SAMPLES,
    };
    let mut generator = Generator::seed_from_u64(seed);
    let kinds: Vec<(usize, usize)> = (0..work.batches()).map(|batch| work.kind(batch)).collect();
    let (mut batch_seconds, mut device_seconds) = (Vec::new(), Some(Vec::new()));
    let mut next_look = rule.next_look(0);
    let mut passes = 0;
    let start = clock.now();
    let convergence = loop {
        for batch in 0..kinds.len() {
            let (host, device) = time(work, batch, clock)?;
            batch_seconds.push(host);
            // A clock that misses a batch is none.
            device_seconds = device_seconds
                .zip(device)
                .map(|(mut all, seconds): (Vec<f64>, f64)| {
                    all.push(seconds);
                    all
                });
        }
        passes += 1;
        let until_next = clock
            .now()
            .saturating_sub(start)
            .mul_f64(1.0 + 1.0 / passes as f64);
        if batch_seconds.len() < next_look && until_next <= rule.time_budget && !kinds.is_empty() {
            continue;
        }
        next_look = rule.next_look(batch_seconds.len());
        let Some(samples) = GroupedSamples::of(&batch_seconds, &kinds) else {
            break Convergence::Converged;
        };
        match rule.decide(&samples, until_next, &mut generator) {
            Decision::Continue => {}
            Decision::Converged => break Convergence::Converged,
            Decision::BudgetSpent => break Convergence::NotConverged,
        }
    };
    Ok(TimedPasses {
        device_seconds: device_seconds.unwrap_or_default(),
        batch_seconds,
        passes,
        convergence,
    })
}

/// Runs a batch: its seconds by the host's clock, and by the device's.
fn time(work: &mut dyn TimedWork, batch: usize, clock: &dyn Clock) -> Result<(f64, Option<f64>)> {
    let start = clock.now();
    work.run(batch)?;
    let seconds = clock.now().saturating_sub(start).as_secs_f64();
    Ok((seconds, work.finish(batch)?))
}

/// A budget of seconds; one that no clock reaches when there is no such duration.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
