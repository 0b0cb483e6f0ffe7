//! The cells of a run and their order.

use std::path::{Path, PathBuf};

use qbench_core::{
    results::{Cell, CellKind},
    workload::WorkloadKind,
};

use super::{Plan, evaluations};
use crate::{
    cli::precision_name,
    plugins::SchemeChoice,
    splitmix,
    worker::{CellJob, Task},
};

/// A cell and what its worker is told.
#[derive(Clone, Debug)]
pub struct PlannedCell {
    pub cell: Cell,
    pub job: CellJob,
}

/// All cells of a run.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// Performance cells, in the order in which they run.
    pub performance: Vec<PlannedCell>,
    /// Quality and biology cells, a group a condition and question.
    pub quality: Vec<QualityGroup>,
    /// Cells about hidden states, which need no reference on disk.
    pub layers: Vec<PlannedCell>,
    /// Cells that are recorded without being run: a synthetic model has no meaning that quantisation could change.
    pub synthetic: Vec<Cell>,
}

/// Cells that share a reference: the reference first, then the modes.
#[derive(Clone, Debug)]
pub struct QualityGroup {
    /// The condition and, where it is not that of tokens, the question.
    pub name: String,
    /// Where the reference's outputs lie while they are needed.
    pub directory: PathBuf,
    /// Whether the reference is there already.
    pub made: bool,
    pub reference: CellJob,
    pub modes: Vec<PlannedCell>,
}

impl Schedule {
    /// The cells of `plan`; `reference_directory` is where a condition's reference lies while it is needed.
    pub fn new(plan: &Plan, reference_directory: &Path) -> Self {
        Self {
            performance: performance_cells(plan),
            quality: evaluations::groups(plan, reference_directory),
            layers: evaluations::layer_cells(plan),
            synthetic: evaluations::synthetic_cells(plan),
        }
    }

    /// Every cell, in the order in which they run.
    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        let quality = self.quality.iter().flat_map(|group| &group.modes);
        let planned = self.performance.iter().chain(quality).chain(&self.layers);
        planned.map(|planned| &planned.cell).chain(&self.synthetic)
    }

    /// Leaves only the cells that `wanted` says, and the references that they need.
    pub fn retain(&mut self, wanted: impl Fn(&Cell) -> bool) {
        self.performance.retain(|planned| wanted(&planned.cell));
        for group in &mut self.quality {
            group.modes.retain(|planned| wanted(&planned.cell));
        }
        self.quality.retain(|group| !group.modes.is_empty());
        self.layers.retain(|planned| wanted(&planned.cell));
        self.synthetic.retain(wanted);
    }

    /// Number of processes that will be started.
    pub fn len(&self) -> usize {
        let quality: usize = self.quality.iter().map(|group| 1 + group.modes.len()).sum();
        self.performance.len() + quality + self.layers.len()
    }
}

/// One block a repeat: every mode once in each condition and batch size, in the order of [`arrange`].
fn performance_cells(plan: &Plan) -> Vec<PlannedCell> {
    let mut cells = Vec::new();
    if !plan.measure_performance {
        return cells;
    }
    for repeat in 0..plan.repeats {
        let mut block = Vec::new();
        for condition in &plan.conditions {
            for &batch_size in &plan.batch_sizes {
                for scheme in &plan.modes {
                    let task = Task::Performance {
                        workload: plan.configuration.workload,
                        batch_size,
                        sampling: plan.configuration.sampling,
                        max_batches: plan.configuration.max_batches,
                    };
                    block.push(PlannedCell {
                        cell: cell(
                            plan,
                            CellKind::Performance,
                            scheme,
                            condition,
                            batch_size.get(),
                            repeat,
                        ),
                        job: job(plan, scheme, condition, task),
                    });
                }
            }
        }
        arrange(&mut block, plan.configuration.seed, repeat);
        cells.append(&mut block);
    }
    cells
}

/// The quality cell of a mode, which runs once.
pub fn quality_cell(plan: &Plan, scheme: &SchemeChoice, condition: &str) -> Cell {
    cell(
        plan,
        CellKind::Quality,
        scheme,
        condition,
        plan.quality_batch_size.get(),
        0,
    )
}

pub(super) fn cell(
    plan: &Plan,
    kind: CellKind,
    scheme: &SchemeChoice,
    condition: &str,
    batch_size: usize,
    repeat: usize,
) -> Cell {
    let configuration = &plan.configuration;
    Cell {
        kind,
        model: configuration.model_label.clone(),
        backend: configuration.backend.info.id.clone(),
        device: configuration.device.id.clone(),
        precision: precision_name(configuration.precision).to_owned(),
        mode: scheme.mode.clone(),
        condition: plan.condition_label(condition),
        workload: match kind {
            CellKind::Performance => configuration.workload,
            _ => WorkloadKind::Embed,
        },
        batch_size,
        repeat,
        part: String::new(),
    }
}

pub(super) fn job(plan: &Plan, scheme: &SchemeChoice, condition: &str, task: Task) -> CellJob {
    let configuration = &plan.configuration;
    CellJob {
        model: configuration.model.clone(),
        commit: configuration.commit.clone(),
        seed: configuration.seed,
        data: configuration.data.clone(),
        condition: condition.to_owned(),
        bins: configuration.bins.clone(),
        samples_per_condition: configuration.samples_per_condition,
        max_tokens: configuration.max_tokens,
        scheme: scheme.clone(),
        backend: configuration.backend.clone(),
        device: configuration.device.id.clone(),
        compute: configuration.precision,
        threads: configuration.threads,
        skip: configuration.skip.clone(),
        only: configuration.only.clone(),
        task,
    }
}

/// Puts the cells of a block into its order, so that a machine that grows slower over time favours no mode: one drawn at
/// random, and in every second block the one before it backwards. What drifts steadily then cancels over two blocks in
/// the mean of the ratios within blocks.
fn arrange<T>(cells: &mut [T], seed: u64, repeat: usize) {
    shuffle(cells, seed.wrapping_add(repeat as u64 / 2));
    if repeat % 2 == 1 {
        cells.reverse();
    }
}

/// Fisher–Yates with SplitMix64: the same order for the same seed in every version.
fn shuffle<T>(items: &mut [T], seed: u64) {
    for last in (1..items.len()).rev() {
        items.swap(
            last,
            (splitmix::at(seed, last as u64) % (last as u64 + 1)) as usize,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell as Shared, time::Duration};

    use qbench_core::{
        measure::{
            clock::Clock,
            sampling::{SamplingSettings, TimedWork, sample, warm_up},
        },
        statistics::{GroupedSamples, PairedTest},
    };

    use super::*;

    /// Milliseconds a batch of five modes on a machine that stays as it is.
    const MODES: [f64; 5] = [50.0, 95.0, 55.0, 60.0, 70.0];
    const REPEATS: usize = 3;
    const SETTINGS: SamplingSettings = SamplingSettings {
        warm_up: None,
        target_ci: 0.0,
        time_budget_seconds: 2.0,
    };
    /// Seconds that a run of all cells takes, budget and warm-up of each, after which the machine is a fifth slower.
    const RUN: f64 = 2.2 * (MODES.len() * REPEATS) as f64;

    /// A backend that slows down by a fifth while it runs, by a clock that its own work moves.
    struct SlowingDown<'a> {
        clock: &'a SimulatedClock,
        milliseconds: f64,
    }

    #[derive(Default)]
    struct SimulatedClock(Shared<Duration>);

    impl Clock for SimulatedClock {
        fn now(&self) -> Duration {
            self.0.get()
        }
    }

    impl TimedWork for SlowingDown<'_> {
        fn batches(&self) -> usize {
            7
        }

        fn kind(&self, _batch: usize) -> (usize, usize) {
            (4, 100)
        }

        fn run(&mut self, _batch: usize) -> qbench_sdk::Result<()> {
            let now = self.clock.now();
            let slower = 1.0 + 0.2 * now.as_secs_f64() / RUN;
            self.clock
                .0
                .set(now + Duration::from_secs_f64(self.milliseconds * slower / 1e3));
            Ok(())
        }

        fn finish(&mut self, _batch: usize) -> qbench_sdk::Result<Option<f64>> {
            Ok(None)
        }
    }

    /// By how much the ratios of the modes to the first one are off at most, cells run in the order of `blocks`: places
    /// of modes.
    fn worst_ratio(blocks: &[Vec<usize>]) -> f64 {
        let clock = SimulatedClock::default();
        let mut typical = vec![[0.0; REPEATS]; MODES.len()];
        for (repeat, block) in blocks.iter().enumerate() {
            for &mode in block {
                let mut backend = SlowingDown {
                    clock: &clock,
                    milliseconds: MODES[mode],
                };
                warm_up(&mut backend, &clock, &SETTINGS).unwrap();
                let passes = sample(&mut backend, &clock, &SETTINGS, 1).unwrap();
                let samples = GroupedSamples::of::<()>(&passes.batch_seconds, &[]).unwrap();
                typical[mode][repeat] = samples.median();
            }
        }
        let off = |mode: usize| {
            let log_ratios: Vec<f64> = (0..REPEATS)
                .map(|repeat| (typical[mode][repeat] / typical[0][repeat]).ln())
                .collect();
            let ratio = PairedTest::of(&log_ratios, 0.03).unwrap().ratio();
            (ratio / (MODES[mode] / MODES[0]) - 1.0).abs()
        };
        (1..MODES.len()).map(off).fold(0.0, f64::max)
    }

    #[test]
    fn blocks_cancel_a_slowdown_that_a_fixed_order_takes_for_the_modes() {
        for seed in 0..40 {
            let blocks: Vec<Vec<usize>> = (0..REPEATS)
                .map(|repeat| {
                    let mut modes: Vec<usize> = (0..MODES.len()).collect();
                    arrange(&mut modes, seed, repeat);
                    modes
                })
                .collect();
            let off = worst_ratio(&blocks);
            assert!(off < 0.03, "seed {seed}: {off}");
        }
        let fixed = vec![(0..MODES.len()).collect::<Vec<_>>(); REPEATS];
        let off = worst_ratio(&fixed);
        assert!(off > 0.04, "{off}");
    }

    #[test]
    fn every_second_block_runs_the_one_before_backwards() {
        let order = |repeat| {
            let mut places: Vec<u32> = (0..9).collect();
            arrange(&mut places, 42, repeat);
            places
        };
        let mut backwards = order(1);
        backwards.reverse();
        assert_eq!(order(0), backwards);
        assert_ne!(order(0), order(2));
    }

    #[test]
    fn a_shuffle_keeps_everything_and_depends_on_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            shuffle(&mut items, seed);
            items
        };
        assert_ne!(shuffled(1), shuffled(2));
        assert_eq!(shuffled(1), shuffled(1));
        let mut sorted = shuffled(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
