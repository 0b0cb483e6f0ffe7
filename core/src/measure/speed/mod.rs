//! The work that is timed: what a model does with the batches of a workload.

mod decode;
mod embed;
mod score;

use std::collections::BTreeMap;

use qbench_sdk::{Model, Result};

use super::clock::Clock;
use super::energy::TimedRegion;
use super::sampling::{SamplingSettings, TimedPasses, TimedWork, WarmUpRun, sample, warm_up};
use crate::workload::{Batch, WorkloadKind};
use decode::Decode;
use embed::Embed;
use score::Score;

/// What timing a model over the batches gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// The batches before the timed ones.
    pub warm_up: WarmUpRun,
    /// The timed ones.
    pub timed: TimedPasses,
    /// What was written into the host's memory, by the batches that warmed up too.
    pub outputs: Outputs,
    /// What a generation gave besides; empty for other workloads.
    pub generation: GenerationTiming,
}

/// Numbers that a model wrote into the host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Those that were looked at.
    pub values: u64,
    /// Those of them that are NaN or infinite.
    pub non_finite: u64,
}

impl Outputs {
    fn look_at(&mut self, values: &[f32]) {
        self.values += values.len() as u64;
        self.non_finite += values.iter().filter(|value| !value.is_finite()).count() as u64;
    }
}

/// The timed generations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationTiming {
    /// Seconds from the beginning of each to its first token.
    pub first_token_seconds: Vec<f64>,
    /// How often each token was generated.
    pub tokens: BTreeMap<u32, u64>,
}

/// The sizes of a model's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputShape {
    /// Number of layers, which is the index of the last hidden state.
    pub layers: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Values of a row of logits.
    pub vocabulary: usize,
}

/// Work of a model.
trait ModelWork: TimedWork {
    fn model(&mut self) -> &mut dyn Model;
    fn outputs(&self) -> Outputs;
    /// Called once, after the warm-up.
    fn forget_warm_up(&mut self) {}
    fn generation(&mut self) -> GenerationTiming {
        GenerationTiming::default()
    }
}

/// Warms the model up and times passes over `batches`.
///
/// A batch is one forward pass ([`WorkloadKind::Embed`], [`WorkloadKind::Score`]) or one whole generation
/// ([`WorkloadKind::Decode`], for which all sequences of a batch must be as long as the prompt). Time is `clock`'s
/// around it, results in the host's memory and the device's completion included; nothing else (tokenising, allocating
/// outputs) lies inside. `seed` is that of the bootstrap that decides when to stop.
///
/// # Errors
/// The model's.
#[expect(
    clippy::too_many_arguments,
    reason = "a struct of these would have one user and rename them only"
)]
pub fn time_batches(
    model: &mut dyn Model,
    shape: OutputShape,
    kind: WorkloadKind,
    batches: &[Batch],
    settings: &SamplingSettings,
    seed: u64,
    clock: &dyn Clock,
    region: &mut dyn TimedRegion,
) -> Result<Timing> {
    match kind {
        WorkloadKind::Embed => time(
            &mut Embed::new(model, shape, batches),
            settings,
            seed,
            clock,
            region,
        ),
        WorkloadKind::Score => time(
            &mut Score::new(model, shape, batches),
            settings,
            seed,
            clock,
            region,
        ),
        WorkloadKind::Decode(generation) => {
            let mut work = Decode::new(model, shape, generation, batches, clock);
            time(&mut work, settings, seed, clock, region)
        }
    }
}

fn time<W: ModelWork>(
    work: &mut W,
    settings: &SamplingSettings,
    seed: u64,
    clock: &dyn Clock,
    region: &mut dyn TimedRegion,
) -> Result<Timing> {
    let warm_up = warm_up(work, clock, settings)?;
    work.forget_warm_up();
    work.model().reset_peak_memory()?;
    region.begin();
    let timed = sample(work, clock, settings, seed)?;
    region.end();
    Ok(Timing {
        warm_up,
        timed,
        outputs: work.outputs(),
        generation: work.generation(),
    })
}

/// Sequences of the largest batch.
fn most_sequences(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.batch).max().unwrap_or_default()
}
