//! [`Ops`] on one GPU: our kernels, in the order of one stream.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use qbench_architectures::{AttentionShape, Layers, Loaded, Ops, Pass};
use qbench_kernels::{CUdeviceptr, Element, attention::Problem, attention_step::Step, rope::Heads};
use qbench_sdk::{
    DType, Error, Layout, Result, StoredTensor,
    backend::{Cache, Execution, Memory},
    narrow, widen,
};

use crate::{
    buffer::Buffer,
    error,
    fp8::Kept,
    gpu::{Gpu, WORKSPACE, element},
    key_values::KeyValues,
    linear::Linear,
    step::{Input, Steps},
    together,
};

#[cfg(test)]
mod tests;

/// f32 logits that are on the GPU at once, in bytes.
const LOGITS: usize = 256 << 20;

/// Operations of one precision.
pub(crate) struct CudaOps {
    gpu: Gpu,
    precision: DType,
    element: Element,
    threads: usize,
    /// The rotary tables of the last pass: the next one often has the same positions.
    angles: RefCell<Option<Rc<Angles>>>,
    steps: Steps,
    started: CudaEvent,
    finished: CudaEvent,
    timed: Cell<bool>,
}

// SAFETY: the `Rc`s of `angles` and `steps` are shared with `Tokens` only, which live inside one forward pass on one thread, and
// all calls on a model come from one thread.
unsafe impl Send for CudaOps {}

/// Rotary tables of the positions `past .. past + length`.
struct Angles {
    past: usize,
    length: usize,
    cos: Buffer,
    sin: Buffer,
}

/// Activations `[rows, width]`; nobody else holds the buffer, so kernels may write where it is read.
pub(crate) struct Activations {
    buffer: Buffer,
    rows: usize,
    width: usize,
    /// Whether heads are still to be turned by the pass's angles: the attention of a step does it.
    to_turn: bool,
    /// What products made of them.
    kept: Kept,
}

impl Activations {
    fn new(buffer: Buffer, rows: usize, width: usize) -> Self {
        Self {
            buffer,
            rows,
            width,
            kept: Kept::new(),
            to_turn: false,
        }
    }

    /// The same after other values were written: what products made of the old ones is dropped.
    fn written(self) -> Self {
        Self::new(self.buffer, self.rows, self.width)
    }

    fn address(&self) -> CUdeviceptr {
        self.buffer.address()
    }
}

/// One pass.
pub(crate) struct Tokens {
    /// u32 ids.
    ids: CUdeviceptr,
    /// The index of each sequence's last row, u32.
    last_rows: CUdeviceptr,
    /// A byte a position.
    mask: CUdeviceptr,
    /// Bytes between two sequences' masks.
    mask_stride: usize,
    cos: CUdeviceptr,
    sin: CUdeviceptr,
    batch: usize,
    length: usize,
    past: usize,
    padded: bool,
    held: Held,
}

/// The memory of a pass.
enum Held {
    Pass { _tokens: Buffer, _angles: Rc<Angles> },
    Step(Rc<Input>),
}

// SAFETY: as for `CudaOps`.
unsafe impl Send for Tokens {}

impl Tokens {
    fn rows(&self) -> usize {
        self.batch * self.length
    }
}

impl CudaOps {
    pub(crate) fn new(gpu: Gpu, precision: DType, threads: usize) -> Result<Self> {
        Ok(Self {
            element: element(precision)?,
            precision,
            threads,
            angles: RefCell::new(None),
            steps: Steps::default(),
            started: gpu.event()?,
            finished: gpu.event()?,
            timed: Cell::new(false),
            gpu,
        })
    }

    fn empty(&self, rows: usize, width: usize) -> Result<Activations> {
        let buffer = self.gpu.buffer(rows * width * self.precision.size())?;
        Ok(Activations::new(buffer, rows, width))
    }

    fn angles(&self, pass: &Pass<'_>) -> Result<Rc<Angles>> {
        let (past, length) = (pass.past, pass.tokens.length);
        let mut kept = self.angles.borrow_mut();
        if let Some(angles) = kept
            .as_ref()
            .filter(|angles| (angles.past, angles.length) == (past, length))
        {
            return Ok(angles.clone());
        }
        let angles = Rc::new(Angles {
            past,
            length,
            cos: self.gpu.upload(bytemuck::cast_slice(pass.cos))?,
            sin: self.gpu.upload(bytemuck::cast_slice(pass.sin))?,
        });
        *kept = Some(angles.clone());
        Ok(angles)
    }

    fn norm(
        &self,
        x: &Activations,
        delta: Option<&Activations>,
        weight: &Buffer,
        eps: f32,
    ) -> Result<Activations> {
        let out = self.empty(x.rows, x.width)?;
        // SAFETY: all activations are `[rows, width]`, the weight has `width` values.
        unsafe {
            self.gpu.kernels.norm.run(
                x.address(),
                delta.map(Activations::address),
                weight.address(),
                eps,
                out.address(),
                (x.rows, x.width),
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(out)
    }
}

impl CudaOps {
    /// The products of `x` with two weights.
    fn both(&self, x: &Activations, first: &Linear, second: &Linear) -> Result<(Activations, Activations)> {
        match together::apart(&self.gpu, [first, second], (x.address(), x.rows))? {
            Some([of_first, of_second]) => Ok((
                Activations::new(of_first, x.rows, first.rows()),
                Activations::new(of_second, x.rows, second.rows()),
            )),
            None => Ok((self.linear(x, first)?, self.linear(x, second)?)),
        }
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

impl Ops for CudaOps {
    type Tensor = Activations;
    type Vector = Buffer;
    type Linear = Linear;
    type Cache = KeyValues;
    type Tokens = Tokens;
    type Pooled = Buffer;

    fn load_vector(&mut self, vector: Box<dyn StoredTensor>) -> Result<Loaded<Buffer>> {
        let (Some(dense), Layout::Dense(layout)) = (vector.dense(), vector.layout()) else {
            return Err(Error::Unsupported(format!(
                "a vector in layout {}; only dense floats are known",
                vector.layout().kind()
            )));
        };
        let mut values = vec![0.0; layout.cols];
        dense.read_row(0, &mut values)?;
        let mut rounded = vec![0; layout.cols * self.precision.size()];
        narrow(&values, self.precision, &mut rounded)?;
        widen(&rounded, self.precision, &mut values)?;
        let value = self.gpu.upload(bytemuck::cast_slice(&values))?;
        Ok(Loaded {
            bytes: value.bytes() as u64,
            value,
            execution: Execution::Native {
                kernel: "f32".to_owned(),
            },
        })
    }

    fn load_linear(&mut self, weight: Box<dyn StoredTensor>, bias: Option<Buffer>) -> Result<Loaded<Linear>> {
        Linear::load(&self.gpu, weight.as_ref(), bias, self.precision, self.threads)
    }

    fn new_cache(&self, batch: usize, shape: &AttentionShape) -> Result<KeyValues> {
        Ok(KeyValues::new(
            batch,
            shape.kv_heads * shape.head_dim,
            self.precision.size(),
        ))
    }

    fn begin(&self, pass: &Pass<'_>) -> Result<Tokens> {
        self.gpu.bind()?;
        self.timed.set(false);
        let tokens = &pass.tokens;
        let padded = tokens.mask.contains(&0);
        let (batch, length, past) = (tokens.batch, tokens.length, pass.past);
        if length == 1 && tokens.cache != Cache::None {
            let input = self.steps.upload(&self.gpu, pass)?;
            self.gpu.record(&self.started)?;
            return Ok(Tokens {
                ids: input.ids(),
                last_rows: input.last_rows(),
                mask: input.mask(),
                mask_stride: input.mask_stride(),
                cos: input.cos(),
                sin: input.sin(),
                batch,
                length,
                past,
                padded,
                held: Held::Step(input),
            });
        }
        let rows = batch * length;
        let mut bytes = Vec::with_capacity((rows + batch) * size_of::<u32>() + tokens.mask.len());
        bytes.extend_from_slice(bytemuck::cast_slice(tokens.ids));
        bytes.extend((1..=batch).flat_map(|sequence| ((sequence * length - 1) as u32).to_ne_bytes()));
        bytes.extend_from_slice(tokens.mask);
        let angles = self.angles(pass)?;
        let buffer = self.gpu.upload(&bytes)?;
        self.gpu.record(&self.started)?;
        let last_rows = buffer.address() + (rows * size_of::<u32>()) as u64;
        Ok(Tokens {
            ids: buffer.address(),
            last_rows,
            mask: last_rows + (batch * size_of::<u32>()) as u64,
            mask_stride: past + length,
            cos: angles.cos.address(),
            sin: angles.sin.address(),
            batch,
            length,
            past,
            padded,
            held: Held::Pass {
                _tokens: buffer,
                _angles: angles,
            },
        })
    }

    fn embed(&self, table: &Linear, tokens: &Tokens) -> Result<Activations> {
        let buffer = table.gather(&self.gpu, tokens.ids, tokens.rows())?;
        Ok(Activations::new(buffer, tokens.rows(), table.cols()))
    }

    fn rms_norm(&self, x: &Activations, weight: &Buffer, eps: f32) -> Result<Activations> {
        self.norm(x, None, weight, eps)
    }

    fn add_rms_norm(
        &self,
        x: Activations,
        y: &Activations,
        weight: &Buffer,
        eps: f32,
    ) -> Result<(Activations, Activations)> {
        let normed = self.norm(&x, Some(y), weight, eps)?;
        Ok((x.written(), normed))
    }

    fn linear(&self, x: &Activations, weight: &Linear) -> Result<Activations> {
        let buffer = weight.forward(&self.gpu, x.address(), x.rows, &x.kept)?;
        Ok(Activations::new(buffer, x.rows, weight.rows()))
    }

    fn projections(&self, x: &Activations, weights: [&Linear; 3]) -> Result<[Activations; 3]> {
        let [q, k, v] = weights;
        match together::apart(&self.gpu, weights, (x.address(), x.rows))? {
            Some(products) => {
                let [of_q, of_k, of_v] = products;
                let of = |buffer, weight: &Linear| Activations::new(buffer, x.rows, weight.rows());
                Ok([of(of_q, q), of(of_k, k), of(of_v, v)])
            }
            None => Ok([self.linear(x, q)?, self.linear(x, k)?, self.linear(x, v)?]),
        }
    }

    fn rope(
        &self,
        q: Activations,
        k: Activations,
        head_dim: usize,
        tokens: &Tokens,
    ) -> Result<(Activations, Activations)> {
        if let Held::Step(_) = &tokens.held {
            let turned = |x: Activations| Activations { to_turn: true, ..x };
            return Ok((turned(q), turned(k)));
        }
        let heads = Heads {
            q: q.address(),
            q_heads: q.width / head_dim,
            k: k.address(),
            k_heads: k.width / head_dim,
            head_dim,
            rows: q.rows,
            length: tokens.length,
        };
        // SAFETY: queries and keys have the sizes told; the tables are those of the pass's positions.
        unsafe {
            self.gpu
                .kernels
                .rope
                .run(&heads, (tokens.cos, tokens.sin), self.element, self.gpu.stream())
        }
        .map_err(error::kernel)?;
        Ok((q.written(), k.written()))
    }

    fn attention(
        &self,
        q: Activations,
        k: Activations,
        v: Activations,
        shape: &AttentionShape,
        tokens: &Tokens,
        mut cache: Option<&mut KeyValues>,
    ) -> Result<Activations> {
        if let (Held::Step(input), Some(cache)) = (&tokens.held, cache.as_deref_mut()) {
            return self.step_attention([&q, &k, &v], shape, (tokens, input), cache);
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

    fn gated_mlp(&self, x: &Activations, gate: &Linear, up: &Linear, down: &Linear) -> Result<Activations> {
        if let Some(product) = together::gated(&self.gpu, (gate, up), (x.address(), x.rows))? {
            return self.linear(&Activations::new(product, x.rows, gate.rows()), down);
        }
        let (inner, other) = self.both(x, gate, up)?;
        let both = (inner.address(), other.address());
        if let Some(buffer) = down.forward_gated(&self.gpu, both, inner.rows)? {
            return Ok(Activations::new(buffer, inner.rows, down.rows()));
        }
        // SAFETY: both are `[rows, inner]`.
        unsafe {
            self.gpu.kernels.elementwise.silu_product(
                inner.address(),
                other.address(),
                inner.rows * inner.width,
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        drop(other);
        self.linear(&inner.written(), down)
    }

    fn add(&self, x: Activations, y: &Activations) -> Result<Activations> {
        // SAFETY: both are `[rows, width]`.
        unsafe {
            self.gpu.kernels.elementwise.add(
                x.address(),
                y.address(),
                x.rows * x.width,
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(x.written())
    }

    fn last_positions(&self, x: &Activations, tokens: &Tokens) -> Result<Activations> {
        let out = self.empty(tokens.batch, x.width)?;
        // SAFETY: the indices are those of the sequences' last rows.
        unsafe {
            self.gpu.kernels.rows.gather(
                x.address(),
                tokens.last_rows,
                out.address(),
                tokens.batch,
                x.width,
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(out)
    }

    fn project(&self, x: &Activations, weight: &Linear, out: &mut [f32]) -> Result<()> {
        let row = weight.rows() * size_of::<f32>();
        let step = (LOGITS / row.max(1)).clamp(1, x.rows);
        let logits = self.gpu.buffer(step * row)?;
        for (part, out) in out.chunks_mut(step * weight.rows()).enumerate() {
            let rows = out.len() / weight.rows();
            let x = x.address() + (part * step * x.width * self.precision.size()) as u64;
            weight.forward_into(&self.gpu, (x, rows), (logits.address(), Element::F32))?;
            self.gpu.download(&logits, out)?;
        }
        Ok(())
    }

    fn decode(
        &self,
        tokens: &Tokens,
        caches: &mut [KeyValues],
        head: &Linear,
        out: &mut [f32],
        layers: &Layers<Self>,
    ) -> Result<()> {
        let Held::Step(input) = &tokens.held else {
            return self.project(&layers(caches)?, head, out);
        };
        // Before anything is recorded: a cache that grows moves.
        for cache in caches.iter_mut() {
            cache.reserve(&self.gpu, tokens.past, tokens.past + 1)?;
        }
        self.steps.run(
            &self.gpu,
            (input, tokens.padded),
            caches,
            size_of_val(out),
            &|caches, logits| {
                let x = layers(caches)?;
                head.forward_into(&self.gpu, (x.address(), x.rows), (logits.address(), Element::F32))
            },
            &mut |logits| self.gpu.download(logits, out),
        )
    }

    fn mean_pool(&self, x: &Activations, tokens: &Tokens) -> Result<Buffer> {
        let out = self.gpu.buffer(tokens.batch * x.width * size_of::<f32>())?;
        // SAFETY: the mask holds `past + length` bytes a sequence, its stride apart; the states are `[batch · length, width]`.
        unsafe {
            self.gpu.kernels.rows.mean(
                x.address(),
                tokens.mask + tokens.past as u64,
                tokens.mask_stride,
                out.address(),
                (tokens.batch, tokens.length, x.width),
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(out)
    }

    fn read_pooled(&self, pooled: Buffer, out: &mut [f32]) -> Result<()> {
        self.gpu.download(&pooled, out)
    }

    fn copy_out(&self, x: &Activations, out: &mut [f32]) -> Result<()> {
        let wide = self.gpu.buffer(size_of_val(out))?;
        // SAFETY: `wide` has room for each value as f32.
        unsafe {
            self.gpu.kernels.elementwise.widen(
                x.address(),
                wide.address(),
                x.rows * x.width,
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        self.gpu.download(&wide, out)
    }

    fn finish(&self) -> Result<()> {
        self.gpu.record(&self.finished)?;
        self.timed.set(true);
        Ok(())
    }

    fn device_seconds(&self) -> Result<Option<f64>> {
        if !self.timed.get() {
            return Ok(None);
        }
        let milliseconds = self.started.elapsed_ms(&self.finished).map_err(error::driver)?;
        Ok(Some(f64::from(milliseconds) / 1e3))
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn synchronize(&self) -> Result<()> {
        self.gpu.synchronize()
    }

    fn memory(&self) -> Result<Memory> {
        self.gpu.memory()
    }

    fn workspace_bytes(&self) -> u64 {
        WORKSPACE as u64
    }

    fn reset_peak_memory(&self) -> Result<()> {
        self.gpu.reset_peak_memory()
    }
}
