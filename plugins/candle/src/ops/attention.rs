//! Attention of whole passes, and of one more position.

use qbench_architectures::AttentionShape;
use qbench_kernels::{attention::Problem, attention_step::Step};
use qbench_sdk::Result;

use super::{Activations, CudaOps, Tokens, pass::Held};
use crate::{error, key_values::KeyValues, step::Input};

impl CudaOps {
    /// Attention of each position to those up to it, in the cache too where there is one.
    pub(super) fn attend(
        &self,
        [q, k, v]: [&Activations; 3],
        shape: &AttentionShape,
        tokens: &Tokens,
        mut cache: Option<&mut KeyValues>,
    ) -> Result<Activations> {
        if let (Held::Step(input), Some(cache)) = (&tokens.held, cache.as_deref_mut()) {
            return self.step_attention([q, k, v], shape, (tokens, input), cache);
        }
        let new = [k.address(), v.address()];
        let ([keys, values], positions_apart) = match cache {
            None => (new, tokens.length),
            Some(cache) => {
                let all = cache.append(&self.gpu, new, tokens.past, tokens.length)?;
                (all, cache.capacity())
            }
        };
        let out = self.empty(q.rows, q.width)?;
        let problem = Problem {
            q: q.address(),
            k: keys,
            v: values,
            mask: tokens.padded.then_some(tokens.mask),
            out: out.address(),
            kv_stride: positions_apart * shape.kv_heads * shape.head_dim,
            batch: tokens.batch,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            length: tokens.length,
            past: tokens.past,
            window: shape.window,
            causal: shape.causal,
            scale: shape.scale,
        };
        // SAFETY: queries, keys, values and output have the problem's sizes. Rows of heads with a tensor-core kernel are
        // multiples of 16 bytes.
        unsafe {
            self.gpu
                .kernels
                .attention
                .run(&problem, self.element, self.gpu.stream())
        }
        .map_err(error::kernel)?;
        Ok(out)
    }

    /// Attention of one position a sequence, which joins the cache.
    fn step_attention(
        &self,
        [q, k, v]: [&Activations; 3],
        shape: &AttentionShape,
        (tokens, input): (&Tokens, &Input),
        cache: &mut KeyValues,
    ) -> Result<Activations> {
        cache.reserve(&self.gpu, tokens.past, tokens.past + 1)?;
        let [keys, values] = cache.addresses()?;
        let out = self.empty(q.rows, q.width)?;
        let step = Step {
            q: q.address(),
            new_k: k.address(),
            new_v: v.address(),
            k: keys,
            v: values,
            mask: tokens.padded.then_some(tokens.mask),
            mask_stride: tokens.mask_stride,
            position: input.position(),
            angles: (q.to_turn && k.to_turn).then(|| (input.cos(), input.sin())),
            out: out.address(),
            workspace: self
                .steps
                .workspace(&self.gpu, tokens.batch, shape, cache.capacity())?,
            capacity: cache.capacity(),
            batch: tokens.batch,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            window: shape.window,
            scale: shape.scale,
        };
        // SAFETY: queries, keys, values and output are `[batch, width]`, the cache has room for the position, and the
        // workspace is that of this shape.
        unsafe {
            self.gpu
                .kernels
                .attention_step
                .run(&step, self.element, self.gpu.stream())
        }
        .map_err(error::kernel)?;
        Ok(out)
    }
}
