//! The cells of a run and their order.

use std::path::{Path, PathBuf};

use qbench_core::results::{Cell, CellKind};

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
}

/// Cells that share a reference: the reference first, then the modes.
#[derive(Clone, Debug)]
pub struct QualityGroup {
    /// The condition and, where it is not that of tokens, the question.
    pub name: String,
    /// Where the reference's outputs lie while they are needed.
    pub directory: PathBuf,
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
        }
    }

    /// Number of processes that will be started.
    pub fn len(&self) -> usize {
        let quality: usize = self.quality.iter().map(|group| 1 + group.modes.len()).sum();
        self.performance.len() + quality + self.layers.len()
    }
}

/// One block a repeat: every mode once in each condition and batch size, in an order drawn anew, so that a machine that
/// grows slower over time does not favour the mode that comes first.
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
        shuffle(&mut block, plan.configuration.seed.wrapping_add(repeat as u64));
        cells.append(&mut block);
    }
    cells
}

/// The quality cell of a mode: one sequence a call, once.
pub fn quality_cell(plan: &Plan, scheme: &SchemeChoice, condition: &str) -> Cell {
    cell(plan, CellKind::Quality, scheme, condition, 1, 0)
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
        condition: condition.to_owned(),
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
    use super::*;

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
