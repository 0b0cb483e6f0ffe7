use std::mem;

use qbench_sdk::{
    Model, Result,
    backend::{Cache, ForwardOutput, LogitRows, TokenBatch},
};

use super::{GenerationTiming, ModelWork, OutputShape, Outputs, TimedWork, most_sequences};
use crate::measure::clock::Clock;
use crate::workload::{Batch, Generation};

/// What a job does that generates: a pass over the prompts, then one pass a token with the model's key-value cache. The
/// host takes the likeliest token of each sequence, so that all backends and modes do the same work.
pub(super) struct Decode<'a> {
    model: &'a mut dyn Model,
    batches: &'a [Batch],
    generation: Generation,
    clock: &'a dyn Clock,
    vocabulary: usize,
    /// Room for a row of logits a sequence of the largest batch.
    logits: Vec<f32>,
    /// Ones, for as many positions as the largest batch comes to.
    mask: Vec<u8>,
    /// Tokens of the generation that runs, step by step.
    tokens: Vec<u32>,
    timing: GenerationTiming,
    outputs: Outputs,
}

impl<'a> Decode<'a> {
    pub(super) fn new(
        model: &'a mut dyn Model,
        shape: OutputShape,
        generation: Generation,
        batches: &'a [Batch],
        clock: &'a dyn Clock,
    ) -> Self {
        let sequences = most_sequences(batches);
        let positions = generation.prompt_tokens.get() + generation.generated_tokens.get();
        Self {
            model,
            batches,
            generation,
            clock,
            vocabulary: shape.vocabulary,
            logits: vec![0.0; sequences * shape.vocabulary],
            mask: vec![1; sequences * positions],
            tokens: Vec::with_capacity(sequences * generation.generated_tokens.get()),
            timing: GenerationTiming::default(),
            outputs: Outputs::default(),
        }
    }

    /// A pass over `length` tokens a sequence that follow `cached` ones, and the likeliest token after it.
    fn step(&mut self, sequences: usize, ids: &[u32], cached: usize) -> Result<()> {
        let length = ids.len() / sequences;
        let logits = &mut self.logits[..sequences * self.vocabulary];
        let batch = TokenBatch {
            ids,
            mask: &self.mask[..sequences * (cached + length)],
            batch: sequences,
            length,
            cache: if cached == 0 {
                Cache::Start
            } else {
                Cache::Continue
            },
        };
        let mut output = ForwardOutput {
            logits: Some((LogitRows::Last, &mut *logits)),
            ..ForwardOutput::default()
        };
        self.model.forward(batch, &mut output)?;
        self.tokens
            .extend(logits.chunks_exact(self.vocabulary).map(likeliest));
        Ok(())
    }
}

/// The index of the largest value, the first of equals; NaN is smaller than all.
fn likeliest(row: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &value) in (0..).zip(row) {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

impl TimedWork for Decode<'_> {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    fn kind(&self, batch: usize) -> (usize, usize) {
        let tokens = self.generation.prompt_tokens.get() + self.generation.generated_tokens.get();
        (self.batches[batch].batch, tokens)
    }

    fn run(&mut self, batch: usize) -> Result<()> {
        let batch = &self.batches[batch];
        let start = self.clock.now();
        self.tokens.clear();
        self.step(batch.batch, &batch.ids, 0)?;
        let first_token = self.clock.now().saturating_sub(start);
        for step in 1..self.generation.generated_tokens.get() {
            let previous: Vec<u32> = self.tokens[(step - 1) * batch.batch..].to_vec();
            self.step(batch.batch, &previous, batch.length + step - 1)?;
        }
        self.model.synchronize()?;
        self.timing.first_token_seconds.push(first_token.as_secs_f64());
        Ok(())
    }

    /// The device's clock times a pass, not a generation.
    fn finish(&mut self, batch: usize) -> Result<Option<f64>> {
        for &token in &self.tokens {
            *self.timing.tokens.entry(token).or_default() += 1;
        }
        // What was not finite before is so in the cache, and thus at the end.
        let size = self.batches[batch].batch * self.vocabulary;
        self.outputs.look_at(&self.logits[..size]);
        Ok(None)
    }
}

impl ModelWork for Decode<'_> {
    fn model(&mut self) -> &mut dyn Model {
        self.model
    }

    fn outputs(&self) -> Outputs {
        self.outputs
    }

    fn forget_warm_up(&mut self) {
        self.timing = GenerationTiming::default();
    }

    fn generation(&mut self) -> GenerationTiming {
        mem::take(&mut self.timing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_token_is_the_first_of_the_largest() {
        assert_eq!(likeliest(&[0.5, f32::NAN, 2.0, 2.0]), 2);
        assert_eq!(likeliest(&[f32::NAN, f32::NAN]), 0);
    }
}
