use std::cell::Cell;

use rand::RngExt;

use super::*;

/// A clock that moves when it is told to.
#[derive(Default)]
struct SimulatedClock(Cell<Duration>);

impl Clock for SimulatedClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// Batches that take the time that `seconds` gives for their number since the start and their place.
struct Simulated<'a, F> {
    clock: &'a SimulatedClock,
    shapes: Vec<(usize, usize)>,
    seconds: F,
    ran: usize,
    has_device_clock: bool,
}

impl<F: FnMut(usize, usize) -> f64> TimedWork for Simulated<'_, F> {
    fn batches(&self) -> usize {
        self.shapes.len()
    }

    fn kind(&self, batch: usize) -> (usize, usize) {
        self.shapes[batch]
    }

    fn run(&mut self, batch: usize) -> Result<()> {
        let seconds = Duration::from_secs_f64((self.seconds)(self.ran, batch));
        self.clock.0.set(self.clock.now() + seconds);
        self.ran += 1;
        Ok(())
    }

    fn finish(&mut self, _batch: usize) -> Result<Option<f64>> {
        // What this costs must not count.
        self.clock.0.set(self.clock.now() + Duration::from_millis(1));
        Ok(self.has_device_clock.then_some(0.5))
    }
}

const SETTINGS: SamplingSettings = SamplingSettings {
    warm_up: None,
    target_ci: 0.01,
    time_budget_seconds: 5.0,
};

/// Nanoseconds of a `Duration`.
const ROUNDING: f64 = 1e-8;

fn timed(
    shapes: &[(usize, usize)],
    settings: &SamplingSettings,
    seconds: impl FnMut(usize, usize) -> f64,
) -> (WarmUpRun, TimedPasses) {
    let clock = SimulatedClock::default();
    let mut work = Simulated {
        clock: &clock,
        shapes: shapes.to_vec(),
        seconds,
        ran: 0,
        has_device_clock: true,
    };
    let run = warm_up(&mut work, &clock, settings).unwrap();
    let passes = sample(&mut work, &clock, settings, 1).unwrap();
    (run, passes)
}

/// Seconds with a uniform noise of up to `share` either way.
fn noisy(share: f64) -> impl FnMut(usize) -> f64 {
    let mut generator = Generator::seed_from_u64(3);
    move |_| 1.0 + share * (2.0 * generator.random::<f64>() - 1.0)
}

#[test]
fn steady_times_converge_in_whole_passes() {
    let mut noise = noisy(0.005);
    let (_, passes) = timed(&[(4, 100); 7], &SETTINGS, |ran, _| 0.01 * noise(ran));
    assert_eq!(passes.convergence, Convergence::Converged);
    // The fewest samples that count are 10: two passes of seven.
    assert_eq!((passes.passes, passes.batch_seconds.len()), (2, 14));
    assert_eq!(passes.device_seconds, [0.5; 14]);
}

#[test]
fn noisy_times_run_until_the_budget_and_not_beyond() {
    let mut noise = noisy(0.9);
    let (_, passes) = timed(&[(4, 100); 7], &SETTINGS, |ran, _| 0.1 * noise(ran));
    assert_eq!(passes.convergence, Convergence::NotConverged);
    let total: f64 = passes.batch_seconds.iter().sum();
    // A pass takes 0.7 s, more or less: seven fit with certainty into what five passes leave of the budget.
    assert!((4.0..=5.1).contains(&total), "{total}");
    assert_eq!(passes.batch_seconds.len(), 7 * passes.passes);
}

#[test]
fn a_first_pass_is_always_finished() {
    let slow = |_, _| 2.0;
    let (_, passes) = timed(&[(4, 100); 7], &SETTINGS, slow);
    assert_eq!(
        (passes.passes, passes.convergence),
        (1, Convergence::NotConverged)
    );
    let no_time = SamplingSettings {
        time_budget_seconds: 0.0,
        ..SETTINGS
    };
    assert_eq!(timed(&[(4, 100); 7], &no_time, slow).1.passes, 1);
    let (_, none) = timed(&[], &SETTINGS, slow);
    assert_eq!(
        (none.batch_seconds.len(), none.convergence),
        (0, Convergence::Converged)
    );
}

#[test]
fn batches_of_different_lengths_converge_although_their_times_differ() {
    let shapes = [(4, 100), (4, 200), (4, 50), (2, 50)];
    let mut noise = noisy(0.005);
    let work = |ran, batch: usize| shapes[batch].1 as f64 * 1e-4 * noise(ran);
    let (_, passes) = timed(&shapes, &SETTINGS, work);
    assert_eq!(passes.convergence, Convergence::Converged);
    // Of each length three samples are needed.
    assert_eq!(passes.passes, 3);
}

#[test]
fn what_follows_a_batch_is_not_timed_and_a_device_without_a_clock_has_none() {
    let (_, passes) = timed(&[(1, 1); 3], &SETTINGS, |_, _| 0.01);
    assert!(
        passes
            .batch_seconds
            .iter()
            .all(|seconds| (seconds - 0.01).abs() < ROUNDING)
    );
    let clock = SimulatedClock::default();
    let mut work = Simulated {
        clock: &clock,
        shapes: vec![(1, 1); 3],
        seconds: |_, _| 0.01,
        ran: 0,
        has_device_clock: false,
    };
    let passes = sample(&mut work, &clock, &SETTINGS, 1).unwrap();
    assert!(passes.device_seconds.is_empty());
}

#[test]
fn the_warm_up_ends_when_times_are_steady() {
    let slow_start = |ran: usize, _| if ran < 6 { 0.03 } else { 0.01 };
    let (run, passes) = timed(&[(4, 100); 7], &SETTINGS, slow_start);
    assert_eq!(run.settled, Some(true));
    // Six slow batches are less than half of all once eight steady ones have followed.
    assert_eq!(run.batch_seconds.len(), 14);
    assert!(
        passes
            .batch_seconds
            .iter()
            .all(|seconds| (seconds - 0.01).abs() < ROUNDING)
    );
}

#[test]
fn the_warm_up_has_a_cap_of_time_and_of_batches() {
    // A fifth of 5 s.
    let (run, _) = timed(&[(4, 100); 7], &SETTINGS, |_, _| 0.4);
    assert_eq!((run.batch_seconds.len(), run.settled), (3, Some(false)));
    let faster_and_faster = |ran: usize, _| 1e-3 / (1.0 + ran as f64);
    let (run, _) = timed(&[(4, 100); 7], &SETTINGS, faster_and_faster);
    assert!(run.batch_seconds.len() <= MOST_WARM_UP_BATCHES, "{run:?}");
    let fixed = SamplingSettings {
        warm_up: Some(9),
        ..SETTINGS
    };
    let (run, _) = timed(&[(4, 100); 7], &fixed, |_, _| 2.0);
    assert_eq!((run.batch_seconds.len(), run.settled), (9, None));
}
