//! The operations that a backend implements.

use qbench_sdk::{
    Result, StoredTensor,
    backend::{Execution, Memory, TokenBatch},
};

/// A weight as a backend holds it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The weight.
    pub value: T,
    /// Bytes held for it, those of a kept [`StoredTensor`] included.
    pub bytes: u64,
    /// How it is run.
    pub execution: Execution,
}

/// One pass over a batch.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Tokens and mask; every id lies in the vocabulary and all lengths agree.
    pub tokens: TokenBatch<'a>,
    /// Positions that the cache holds already.
    pub past: usize,
    /// Cosines of the rotary angles of the positions `past .. past + length`, `[length, head_dim / 2]`.
    pub cos: &'a [f32],
    /// Their sines.
    pub sin: &'a [f32],
}

/// The layers of one step of a decode: caches in, hidden states out.
pub type Layers<'a, O> = dyn Fn(&mut [<O as Ops>::Cache]) -> Result<<O as Ops>::Tensor> + 'a;

/// Shape of an attention and what its queries see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; query head `h` uses `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether a position sees only itself and those before it.
    pub causal: bool,
    /// With `Some(w)`, position `p` sees no position up to `p - w`.
    pub window: Option<usize>,
}

/// What a backend computes with: tensors on its device, and operations on them.
///
/// *Precision* is the type of dense weights and of the inputs of matrix products. Activations hold values of the
/// precision: each operation computes in f32 (accumulation, norms, softmax, rotary tables) and rounds its result once.
/// An implementation may fuse what lies behind one call and need not wait for a device.
///
/// All activations are `[batch · length, width]`, sequence after sequence. Rows of padding tokens go through every
/// operation like the others; only keys at padding positions are hidden from attention.
pub trait Ops: Send {
    /// Activations.
    type Tensor: Send;
    /// A vector of weights: a norm's factors.
    type Vector: Send;
    /// A weight matrix with its optional bias, in any layout.
    type Linear: Send;
    /// Keys and values of one layer.
    type Cache: Send;
    /// What one pass needs on the device: ids, mask, rotary tables.
    type Tokens: Send;
    /// Means of a hidden state, where they were computed.
    type Pooled: Send;

    /// Takes over a vector, stored densely as a matrix of one row.
    ///
    /// # Errors
    /// A layout or type that is no vector of floats, too little memory.
    fn load_vector(&mut self, vector: Box<dyn StoredTensor>) -> Result<Loaded<Self::Vector>>;

    /// Takes over a weight matrix and its bias.
    ///
    /// # Errors
    /// A layout that the backend cannot run, too little memory.
    fn load_linear(
        &mut self,
        weight: Box<dyn StoredTensor>,
        bias: Option<Self::Vector>,
    ) -> Result<Loaded<Self::Linear>>;

    /// An empty cache for a layer and `batch` sequences.
    ///
    /// # Errors
    /// Too little memory.
    fn new_cache(&self, batch: usize, shape: &AttentionShape) -> Result<Self::Cache>;

    /// Brings a pass's tokens to the device.
    ///
    /// # Errors
    /// Too little memory, a fault of the device.
    fn begin(&self, pass: &Pass<'_>) -> Result<Self::Tokens>;

    /// The rows of `table` for the pass's ids.
    ///
    /// # Errors
    /// Too little memory, a fault of the device; so for all operations below.
    fn embed(&self, table: &Self::Linear, tokens: &Self::Tokens) -> Result<Self::Tensor>;

    /// `x / sqrt(mean(x²) + eps) · weight`, row by row (Zhang and Sennrich 2019).
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Vector, eps: f32) -> Result<Self::Tensor>;

    /// `x · Wᵀ + bias`.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn linear(&self, x: &Self::Tensor, weight: &Self::Linear) -> Result<Self::Tensor>;

    /// `x · Wᵀ + bias` for each of a layer's queries, keys and values.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn projections(&self, x: &Self::Tensor, weights: [&Self::Linear; 3]) -> Result<[Self::Tensor; 3]> {
        let [q, k, v] = weights;
        Ok([self.linear(x, q)?, self.linear(x, k)?, self.linear(x, v)?])
    }

    /// Turns the heads of queries and keys (each `head_dim` wide) by the pass's angles: halves `a`, `b` of a head become
    /// `a cos - b sin`, `b cos + a sin`.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn rope(
        &self,
        q: Self::Tensor,
        k: Self::Tensor,
        head_dim: usize,
        tokens: &Self::Tokens,
    ) -> Result<(Self::Tensor, Self::Tensor)>;

    /// `softmax(scale · q kᵀ) v` for each head. A query that sees no key gives zeros. With a cache, `k` and `v` are
    /// appended to it first and all that it holds is seen.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn attention(
        &self,
        q: Self::Tensor,
        k: Self::Tensor,
        v: Self::Tensor,
        shape: &AttentionShape,
        tokens: &Self::Tokens,
        cache: Option<&mut Self::Cache>,
    ) -> Result<Self::Tensor>;

    /// `down(silu(gate(x)) · up(x))`.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn gated_mlp(
        &self,
        x: &Self::Tensor,
        gate: &Self::Linear,
        up: &Self::Linear,
        down: &Self::Linear,
    ) -> Result<Self::Tensor>;

    /// `x + y`.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor>;

    /// `x + y`, and its [`rms_norm`](Self::rms_norm).
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn add_rms_norm(
        &self,
        x: Self::Tensor,
        y: &Self::Tensor,
        weight: &Self::Vector,
        eps: f32,
    ) -> Result<(Self::Tensor, Self::Tensor)> {
        let sum = self.add(x, y)?;
        let normed = self.rms_norm(&sum, weight, eps)?;
        Ok((sum, normed))
    }

    /// The last position of each sequence, `[batch, width]`.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn last_positions(&self, x: &Self::Tensor, tokens: &Self::Tokens) -> Result<Self::Tensor>;

    /// Writes `x · Wᵀ + bias` as f32, not rounded to the precision: logits.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn project(&self, x: &Self::Tensor, weight: &Self::Linear, out: &mut [f32]) -> Result<()>;

    /// One new position a sequence with a cache, up to its logits: runs `layers`, and [`project`](Self::project)s what they
    /// give. `layers` gives the same operations each time, in the same order, and what differs between two calls is in
    /// `tokens` and `caches`: an implementation may record them once and repeat them.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn decode(
        &self,
        tokens: &Self::Tokens,
        caches: &mut [Self::Cache],
        head: &Self::Linear,
        out: &mut [f32],
        layers: &Layers<Self>,
    ) -> Result<()> {
        let _ = tokens;
        self.project(&layers(caches)?, head, out)
    }

    /// The mean over each sequence's tokens, padding left out, `[batch, width]`; zeros for a sequence of padding.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn mean_pool(&self, x: &Self::Tensor, tokens: &Self::Tokens) -> Result<Self::Pooled>;

    /// Writes means as f32.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn read_pooled(&self, pooled: Self::Pooled, out: &mut [f32]) -> Result<()>;

    /// Writes `x` as f32.
    ///
    /// # Errors
    /// See [`embed`](Self::embed).
    fn copy_out(&self, x: &Self::Tensor, out: &mut [f32]) -> Result<()>;

    /// The last operation of a pass has been given: the end of what [`device_seconds`](Self::device_seconds) tells, which
    /// starts at [`begin`](Self::begin).
    ///
    /// # Errors
    /// A fault of the device.
    fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// Seconds of the last pass by the device's own clock, asked after [`synchronize`](Self::synchronize); `None` where
    /// there is no such clock.
    ///
    /// # Errors
    /// A fault of the device.
    fn device_seconds(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Whether the same input gives the same bits each time.
    fn deterministic(&self) -> bool;

    /// Returns once the device has finished everything it was given.
    ///
    /// # Errors
    /// A fault of the device.
    fn synchronize(&self) -> Result<()>;

    /// Memory in use.
    ///
    /// # Errors
    /// A fault of the device.
    fn memory(&self) -> Result<Memory>;

    /// Bytes that the operations may keep besides weights and caches: scratch of their products.
    fn workspace_bytes(&self) -> u64 {
        0
    }

    /// Starts a new peak from what is held now.
    ///
    /// # Errors
    /// A fault of the device.
    fn reset_peak_memory(&self) -> Result<()>;
}
