use qbench_sdk::{
    Model, Result,
    backend::{Cache, ForwardOutput, LogitRows, TokenBatch},
};

use super::{ModelWork, OutputShape, Outputs, TimedWork};
use crate::workload::Batch;

/// What a job does that scores sequences: a pass whose logits of all positions are copied to the host.
pub(super) struct Score<'a> {
    model: &'a mut dyn Model,
    batches: &'a [Batch],
    vocabulary: usize,
    /// Room for the logits of the largest batch.
    logits: Vec<f32>,
    outputs: Outputs,
}

impl<'a> Score<'a> {
    pub(super) fn new(model: &'a mut dyn Model, shape: OutputShape, batches: &'a [Batch]) -> Self {
        let positions = batches.iter().map(|batch| batch.batch * batch.length);
        let logits = vec![0.0; positions.max().unwrap_or_default() * shape.vocabulary];
        Self {
            model,
            batches,
            vocabulary: shape.vocabulary,
            logits,
            outputs: Outputs::default(),
        }
    }

    fn size(&self, batch: &Batch) -> usize {
        batch.batch * batch.length * self.vocabulary
    }
}

impl TimedWork for Score<'_> {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    fn kind(&self, batch: usize) -> (usize, usize) {
        let batch = &self.batches[batch];
        (batch.batch, batch.length)
    }

    fn run(&mut self, batch: usize) -> Result<()> {
        let batch = &self.batches[batch];
        let size = self.size(batch);
        let mut output = ForwardOutput {
            logits: Some((LogitRows::All, &mut self.logits[..size])),
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
        let batch = &self.batches[batch];
        let rows = self.logits.chunks_exact(self.vocabulary);
        // A position that only pads says nothing.
        for (row, _) in rows.zip(&batch.mask).filter(|(_, mask)| **mask == 1) {
            self.outputs.look_at(row);
        }
        self.model.device_seconds()
    }
}

impl ModelWork for Score<'_> {
    fn model(&mut self) -> &mut dyn Model {
        self.model
    }

    fn outputs(&self) -> Outputs {
        self.outputs
    }
}
