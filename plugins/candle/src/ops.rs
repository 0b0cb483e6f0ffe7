//! [`Ops`] on one GPU: our kernels on candle's tensors, in the order of one stream.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use candle_core::{Tensor, cuda_backend::cudarc::driver::CudaEvent};
use qbench_architectures::{AttentionShape, Loaded, Ops, Pass};
use qbench_kernels::{CUdeviceptr, Element, attention::Problem, rope::Heads};
use qbench_sdk::{
    DType, Error, Layout, Result, StoredTensor,
    backend::{Execution, Memory},
    narrow, widen,
};

use crate::{
    error,
    gpu::{Buffer, Gpu, address, element},
    key_values::KeyValues,
    linear::Linear,
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
    started: CudaEvent,
    finished: CudaEvent,
    timed: Cell<bool>,
}

// SAFETY: the `Rc`s of `angles` are shared with `Tokens` only, which live inside one forward pass on one thread, and
// all calls on a model come from one thread.
unsafe impl Send for CudaOps {}

/// Rotary tables of the positions `past .. past + length`.
struct Angles {
    past: usize,
    length: usize,
    cos: Buffer,
    sin: Buffer,
}

/// Activations `[rows, width]`; nobody else holds the tensor, so kernels may write where it is read.
pub(crate) struct Activations {
    tensor: Tensor,
    rows: usize,
    width: usize,
}

impl Activations {
    fn address(&self) -> Result<CUdeviceptr> {
        address(&self.tensor)
    }
}

/// One pass.
pub(crate) struct Tokens {
    /// Ids, u32; then the index of each sequence's last row, u32; then the mask, a byte a position.
    buffer: Buffer,
    batch: usize,
    length: usize,
    past: usize,
    padded: bool,
    angles: Rc<Angles>,
}

// SAFETY: as for `CudaOps`.
unsafe impl Send for Tokens {}

impl Tokens {
    fn rows(&self) -> usize {
        self.batch * self.length
    }

    fn ids(&self) -> CUdeviceptr {
        self.buffer.address()
    }

    fn last_rows(&self) -> CUdeviceptr {
        self.ids() + (self.rows() * size_of::<u32>()) as u64
    }

    fn mask(&self) -> CUdeviceptr {
        self.last_rows() + (self.batch * size_of::<u32>()) as u64
    }
}

impl CudaOps {
    pub(crate) fn new(gpu: Gpu, precision: DType, threads: usize) -> Result<Self> {
        Ok(Self {
            element: element(precision)?,
            precision,
            threads,
            angles: RefCell::new(None),
            started: gpu.event()?,
            finished: gpu.event()?,
            timed: Cell::new(false),
            gpu,
        })
    }

    fn empty(&self, rows: usize, width: usize) -> Result<Activations> {
        Ok(Activations {
            tensor: self.gpu.tensor(rows, width, self.precision)?,
            rows,
            width,
        })
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
                x.address()?,
                delta.map(Activations::address).transpose()?,
                weight.address(),
                eps,
                out.address()?,
                (x.rows, x.width),
                self.element,
                self.gpu.stream(),
            )
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
        let mut bytes =
            Vec::with_capacity((tokens.ids.len() + tokens.batch) * size_of::<u32>() + tokens.mask.len());
        bytes.extend_from_slice(bytemuck::cast_slice(tokens.ids));
        bytes.extend(
            (1..=tokens.batch).flat_map(|sequence| ((sequence * tokens.length - 1) as u32).to_ne_bytes()),
        );
        bytes.extend_from_slice(tokens.mask);
        let angles = self.angles(pass)?;
        let buffer = self.gpu.upload(&bytes)?;
        self.gpu.record(&self.started)?;
        Ok(Tokens {
            buffer,
            batch: tokens.batch,
            length: tokens.length,
            past: pass.past,
            padded: tokens.mask.contains(&0),
            angles,
        })
    }

    fn embed(&self, table: &Linear, tokens: &Tokens) -> Result<Activations> {
        Ok(Activations {
            tensor: table.gather(&self.gpu, tokens.ids(), tokens.rows())?,
            rows: tokens.rows(),
            width: table.cols(),
        })
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
        Ok((x, normed))
    }

    fn linear(&self, x: &Activations, weight: &Linear) -> Result<Activations> {
        Ok(Activations {
            tensor: weight.forward(&self.gpu, &x.tensor, x.rows)?,
            rows: x.rows,
            width: weight.rows(),
        })
    }

    fn rope(
        &self,
        q: Activations,
        k: Activations,
        head_dim: usize,
        tokens: &Tokens,
    ) -> Result<(Activations, Activations)> {
        let heads = Heads {
            q: q.address()?,
            q_heads: q.width / head_dim,
            k: k.address()?,
            k_heads: k.width / head_dim,
            head_dim,
            rows: q.rows,
            length: tokens.length,
        };
        let angles = (tokens.angles.cos.address(), tokens.angles.sin.address());
        // SAFETY: queries and keys have the sizes told; the tables are those of the pass's positions.
        unsafe {
            self.gpu
                .kernels
                .rope
                .run(&heads, angles, self.element, self.gpu.stream())
        }
        .map_err(error::kernel)?;
        Ok((q, k))
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
        let new = [k.address()?, v.address()?];
        let ([keys, values], positions_apart) = match cache {
            None => (new, tokens.length),
            Some(cache) => {
                let all = cache.append(&self.gpu, new, tokens.past, tokens.length)?;
                (all, cache.capacity())
            }
        };
        let out = self.empty(q.rows, q.width)?;
        let problem = Problem {
            q: q.address()?,
            k: keys,
            v: values,
            mask: tokens.padded.then(|| tokens.mask()),
            out: out.address()?,
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
        let inner = self.linear(x, gate)?;
        let other = self.linear(x, up)?;
        // SAFETY: both are `[rows, inner]`.
        unsafe {
            self.gpu.kernels.elementwise.silu_product(
                inner.address()?,
                other.address()?,
                inner.rows * inner.width,
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        drop(other);
        self.linear(&inner, down)
    }

    fn add(&self, x: Activations, y: &Activations) -> Result<Activations> {
        // SAFETY: both are `[rows, width]`.
        unsafe {
            self.gpu.kernels.elementwise.add(
                x.address()?,
                y.address()?,
                x.rows * x.width,
                self.element,
                self.gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(x)
    }

    fn last_positions(&self, x: &Activations, tokens: &Tokens) -> Result<Activations> {
        let out = self.empty(tokens.batch, x.width)?;
        // SAFETY: the indices are those of the sequences' last rows.
        unsafe {
            self.gpu.kernels.rows.gather(
                x.address()?,
                tokens.last_rows(),
                out.address()?,
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
            let x = x.address()? + (part * step * x.width * self.precision.size()) as u64;
            weight.forward_into(&self.gpu, (x, rows), (logits.address(), Element::F32))?;
            self.gpu.download(&logits, out)?;
        }
        Ok(())
    }

    fn mean_pool(&self, x: &Activations, tokens: &Tokens) -> Result<Buffer> {
        let out = self.gpu.buffer(tokens.batch * x.width * size_of::<f32>())?;
        // SAFETY: the mask holds `past + length` bytes a sequence; the states are `[batch · length, width]`.
        unsafe {
            self.gpu.kernels.rows.mean(
                x.address()?,
                tokens.mask() + tokens.past as u64,
                tokens.past + tokens.length,
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
                x.address()?,
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

    fn reset_peak_memory(&self) -> Result<()> {
        self.gpu.reset_peak_memory()
    }
}
