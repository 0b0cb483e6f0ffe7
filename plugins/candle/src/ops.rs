//! [`Ops`] on one GPU: our kernels, in the order of one stream.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use qbench_architectures::{AttentionShape, Layers, Loaded, Ops, Pass};
use qbench_kernels::{Element, rope::Heads};
use qbench_sdk::{
    DType, Error, Layout, Result, StoredTensor,
    backend::{Execution, Memory},
    narrow, widen,
};

use crate::{
    buffer::Buffer,
    error,
    gpu::{Gpu, WORKSPACE, element},
    key_values::KeyValues,
    linear::Linear,
    step::Steps,
    together::{self, Floats},
};

mod activations;
mod attention;
mod pass;
#[cfg(test)]
mod tests;

pub(crate) use activations::Activations;
pub(crate) use pass::Tokens;
use pass::{Angles, Held};

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
        self.begin_pass(pass)
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
        cache: Option<&mut KeyValues>,
    ) -> Result<Activations> {
        self.attend([&q, &k, &v], shape, tokens, cache)
    }

    fn gated_mlp(&self, x: &Activations, gate: &Linear, up: &Linear, down: &Linear) -> Result<Activations> {
        if let Some(product) = together::gated(&self.gpu, (gate, up), (x.address(), x.rows))? {
            return self.linear(&Activations::new(product, x.rows, gate.rows()), down);
        }
        // One launch for all three weights, where they become floats.
        let floats = Floats::of(&self.gpu, &[gate, up, down], x.rows)?;
        let (inner, other) = match &floats {
            Some(floats) => {
                let (inner, other) = (self.empty(x.rows, gate.rows())?, self.empty(x.rows, up.rows())?);
                for (weight, out) in [&inner, &other].into_iter().enumerate() {
                    // SAFETY: activations and results are `[rows, cols]` and `[rows, rows of the weight]`.
                    unsafe { floats.multiply(&self.gpu, weight, (x.address(), x.rows), out.address()) }?;
                }
                (inner, other)
            }
            None => self.both(x, gate, up)?,
        };
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
        let inner = inner.written();
        let Some(floats) = floats else {
            return self.linear(&inner, down);
        };
        let out = self.empty(inner.rows, down.rows())?;
        // SAFETY: as above.
        unsafe { floats.multiply(&self.gpu, 2, (inner.address(), inner.rows), out.address()) }?;
        Ok(out)
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
