//! The work that is timed: forward passes over the batches.

use qbench_sdk::{
    Model, Result,
    backend::{Cache, ForwardOutput, LayerOutput, TokenBatch},
};

use super::clock::Clock;
use super::energy::TimedRegion;
use super::sampling::{SamplingSettings, TimedPasses, TimedWork, WarmUpRun, sample, warm_up};
use crate::workload::Batch;

/// What timing a model over the batches gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// The batches before the timed ones.
    pub warm_up: WarmUpRun,
    /// The timed ones.
    pub timed: TimedPasses,
    /// Pooled values that the batches wrote, those that warmed up among them.
    pub outputs: u64,
    /// Those of them that are NaN or infinite.
    pub non_finite_outputs: u64,
}

/// Warms the model up and times passes over `batches`.
///
/// The work of a batch is what an embedding job does: a forward pass whose last and second-last hidden states are
/// averaged over the tokens of each sequence, copied to the host. Time is `clock`'s around the pass and the device's
/// completion; nothing else (tokenising, allocating outputs) lies inside. `seed` is that of the bootstrap that decides
/// when to stop.
///
/// # Errors
/// The model's.
#[expect(
    clippy::too_many_arguments,
    reason = "a struct of these would have one user and rename them only"
)]
pub fn time_batches(
    model: &mut dyn Model,
    layers: usize,
    hidden: usize,
    batches: &[Batch],
    settings: &SamplingSettings,
    seed: u64,
    clock: &dyn Clock,
    region: &mut dyn TimedRegion,
) -> Result<Timing> {
    let mut work = ForwardPasses::new(model, layers, hidden, batches);
    let warm_up = warm_up(&mut work, clock, settings)?;
    work.model.reset_peak_memory()?;
    region.begin();
    let timed = sample(&mut work, clock, settings, seed)?;
    region.end();
    Ok(Timing {
        warm_up,
        timed,
        outputs: work.outputs,
        non_finite_outputs: work.non_finite_outputs,
    })
}

/// Forward passes of a model with pooled states as output.
struct ForwardPasses<'a> {
    model: &'a mut dyn Model,
    batches: &'a [Batch],
    layers: usize,
    hidden: usize,
    /// Room for the pooled states of the largest batch, last and second-last layer.
    pooled: [Vec<f32>; 2],
    outputs: u64,
    non_finite_outputs: u64,
}

impl<'a> ForwardPasses<'a> {
    fn new(model: &'a mut dyn Model, layers: usize, hidden: usize, batches: &'a [Batch]) -> Self {
        let largest = batches.iter().map(|batch| batch.batch).max().unwrap_or_default();
        Self {
            model,
            batches,
            layers,
            hidden,
            pooled: [(); 2].map(|()| vec![0.0; largest * hidden]),
            outputs: 0,
            non_finite_outputs: 0,
        }
    }
}

impl TimedWork for ForwardPasses<'_> {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    fn kind(&self, batch: usize) -> (usize, usize) {
        let batch = &self.batches[batch];
        (batch.batch, batch.length)
    }

    fn run(&mut self, batch: usize) -> Result<()> {
        let batch = &self.batches[batch];
        let size = batch.batch * self.hidden;
        let [last, second_last] = &mut self.pooled;
        let mut output = ForwardOutput {
            pooled: vec![
                LayerOutput {
                    layer: self.layers,
                    data: &mut last[..size],
                },
                LayerOutput {
                    layer: self.layers.saturating_sub(1),
                    data: &mut second_last[..size],
                },
            ],
            ..ForwardOutput::default()
        };
        let tokens = TokenBatch {
            ids: &batch.ids,
            mask: &batch.mask,
            batch: batch.batch,
            length: batch.length,
            cache: Cache::None,
        };
        self.model.forward(tokens, &mut output)?;
        self.model.synchronize()
    }

    fn finish(&mut self, batch: usize) -> Result<Option<f64>> {
        let size = self.batches[batch].batch * self.hidden;
        for value in self.pooled.iter().flat_map(|states| &states[..size]) {
            self.outputs += 1;
            self.non_finite_outputs += u64::from(!value.is_finite());
        }
        self.model.device_seconds()
    }
}
