use qbench_sdk::{
    Model, Result,
    backend::{Cache, ForwardOutput, LayerOutput, TokenBatch},
};

use super::{ModelWork, OutputShape, Outputs, TimedWork, most_sequences};
use crate::workload::Batch;

/// What an embedding job does: a pass whose last and second-last hidden states are averaged over the tokens of each
/// sequence.
pub(super) struct Embed<'a> {
    model: &'a mut dyn Model,
    batches: &'a [Batch],
    shape: OutputShape,
    /// Room for the pooled states of the largest batch, last and second-last layer.
    pooled: [Vec<f32>; 2],
    outputs: Outputs,
}

impl<'a> Embed<'a> {
    pub(super) fn new(model: &'a mut dyn Model, shape: OutputShape, batches: &'a [Batch]) -> Self {
        Self {
            model,
            batches,
            shape,
            pooled: [(); 2].map(|()| vec![0.0; most_sequences(batches) * shape.hidden]),
            outputs: Outputs::default(),
        }
    }
}

impl TimedWork for Embed<'_> {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    fn kind(&self, batch: usize) -> (usize, usize) {
        let batch = &self.batches[batch];
        (batch.batch, batch.length)
    }

    fn run(&mut self, batch: usize) -> Result<()> {
        let batch = &self.batches[batch];
        let size = batch.batch * self.shape.hidden;
        let [last, second_last] = &mut self.pooled;
        let mut output = ForwardOutput {
            pooled: vec![
                LayerOutput {
                    layer: self.shape.layers,
                    data: &mut last[..size],
                },
                LayerOutput {
                    layer: self.shape.layers.saturating_sub(1),
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
        let size = self.batches[batch].batch * self.shape.hidden;
        for states in &self.pooled {
            self.outputs.look_at(&states[..size]);
        }
        self.model.device_seconds()
    }
}

impl ModelWork for Embed<'_> {
    fn model(&mut self) -> &mut dyn Model {
        self.model
    }

    fn outputs(&self) -> Outputs {
        self.outputs
    }
}
