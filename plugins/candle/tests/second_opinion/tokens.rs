//! One pass: ids, angles, and who sees whom.

use candle_core::{Device::Cpu, Result, Tensor};
use qbench_architectures::{AttentionShape, Pass};

pub(crate) struct Tokens {
    pub(crate) ids: Tensor,
    /// Cosines and sines of the angles, `[length, head_dim / 2]` each.
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
    pub(crate) batch: usize,
    pub(crate) length: usize,
    past: usize,
    mask: Vec<u8>,
}

impl Tokens {
    pub(crate) fn new(pass: &Pass<'_>) -> Result<Self> {
        let tokens = &pass.tokens;
        let angles = (tokens.length, pass.cos.len() / tokens.length);
        Ok(Self {
            ids: Tensor::from_slice(tokens.ids, tokens.ids.len(), &Cpu)?,
            cos: Tensor::from_slice(pass.cos, angles, &Cpu)?,
            sin: Tensor::from_slice(pass.sin, angles, &Cpu)?,
            batch: tokens.batch,
            length: tokens.length,
            past: pass.past,
            mask: tokens.mask.to_vec(),
        })
    }

    /// 1 for each key that a query sees, else 0: `[batch, 1, queries, keys]`.
    pub(crate) fn seen(&self, shape: &AttentionShape) -> Result<Tensor> {
        let keys = self.past + self.length;
        let mut seen = Vec::with_capacity(self.length * self.mask.len());
        for mask in self.mask.chunks_exact(keys) {
            for query in self.past..keys {
                seen.extend(mask.iter().enumerate().map(|(key, token)| {
                    let before = !shape.causal || key <= query;
                    let near = shape.window.is_none_or(|window| query < key + window);
                    f32::from(*token != 0 && before && near)
                }));
            }
        }
        Tensor::from_vec(seen, (self.batch, 1, self.length, keys), &Cpu)
    }

    /// 1 for each of the pass's own tokens, 0 for padding: `[batch, length, 1]`.
    pub(crate) fn kept(&self) -> Result<Tensor> {
        let kept = self
            .mask
            .chunks_exact(self.past + self.length)
            .flat_map(|mask| mask[self.past..].iter().map(|token| f32::from(*token != 0)))
            .collect();
        Tensor::from_vec(kept, (self.batch, self.length, 1), &Cpu)
    }
}
