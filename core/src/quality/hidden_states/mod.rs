//! Every hidden state of a mode against the reference's, token by token.
//!
//! Values stream: what is held is one sequence's hidden states and, for each layer and side, moments (merged exactly)
//! and counts of values in 2¹⁹ buckets, from which quantiles follow to a thousandth of themselves. Layers are
//! independent of each other, so that they share the work of threads without changing a bit.

mod layer;
mod moments;
mod sketch;

use std::thread;

use super::QualityError;
use crate::results::Layers;
use layer::LayerComparison;

/// Compares the hidden states of two models, all layers at once or some at a time.
pub struct HiddenStatesAccumulator {
    hidden: usize,
    layers: Vec<LayerComparison>,
    sequences: u64,
    tokens: u64,
}

impl HiddenStatesAccumulator {
    /// Nothing compared yet. `states` is the number of hidden states, one more than layers; `hidden` their width.
    pub fn new(states: usize, hidden: usize) -> Self {
        Self {
            hidden,
            layers: (0..states).map(LayerComparison::new).collect(),
            sequences: 0,
            tokens: 0,
        }
    }

    /// Counts a sequence of so many tokens, whose states [`add`](Self::add) takes.
    pub fn begin_sequence(&mut self, tokens: usize) {
        self.sequences += 1;
        self.tokens += tokens as u64;
    }

    /// Takes the hidden states from `first` on of one sequence: an entry a state, `[tokens, hidden]`, the reference's and
    /// the mode's. The work is shared by `threads` threads; the numbers do not depend on how many.
    ///
    /// # Errors
    /// A state of the wrong length; nothing is taken then.
    ///
    /// # Panics
    /// When there is no such state.
    pub fn add(
        &mut self,
        first: usize,
        reference: &[Vec<f32>],
        mode: &[Vec<f32>],
        threads: usize,
    ) -> Result<(), QualityError> {
        for (place, (reference, mode)) in reference.iter().zip(mode).enumerate() {
            if reference.len() != mode.len() || !reference.len().is_multiple_of(self.hidden) {
                return Err(QualityError::VectorLength {
                    layer: layer::name(first + place),
                    reference: reference.len(),
                    mode: mode.len(),
                });
            }
        }
        let hidden = self.hidden;
        let layers = &mut self.layers[first..first + reference.len()];
        let share = layers.len().div_ceil(threads.max(1)).max(1);
        thread::scope(|scope| {
            for ((layers, reference), mode) in layers
                .chunks_mut(share)
                .zip(reference.chunks(share))
                .zip(mode.chunks(share))
            {
                scope.spawn(move || {
                    for ((layer, reference), mode) in layers.iter_mut().zip(reference).zip(mode) {
                        layer.add(reference, mode, hidden);
                    }
                });
            }
        });
        Ok(())
    }

    /// The numbers over everything taken so far.
    pub fn finish(self) -> Layers {
        Layers {
            sequences: self.sequences,
            tokens: self.tokens,
            hidden_states: self.layers.iter().map(LayerComparison::quality).collect(),
            distributions: self
                .layers
                .iter()
                .flat_map(LayerComparison::distributions)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
