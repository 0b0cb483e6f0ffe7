//! [`Ops`] on torch's tensors.

use std::cell::{Cell, RefCell};

use qbench_architectures::{AttentionShape, Loaded, Ops, Pass};
use qbench_sdk::{
    DType, Error, Layout, Result, StoredTensor,
    backend::{Execution, Memory},
    narrow, widen,
};
use tch::{Device, Kind, Tensor};

use crate::{
    attention::{Sequences, Visibility, attention},
    context::Context,
    error::Named,
    key_values::KeyValues,
    linear::Linear,
    native::{self, Event},
    tensors::{download, upload},
};

#[cfg(test)]
mod tests;

/// f32 logits that are held at once, in bytes.
const LOGITS: usize = 256 << 20;

/// What torch keeps on a GPU for itself once products ran: cuBLAS's workspace, 32 MiB on Hopper, for each of two handles.
const CUDA_WORKSPACE: u64 = 64 << 20;

/// Operations of one device and precision.
pub(crate) struct TorchOps {
    context: Context,
    /// The rotary tables of the last pass: the next one often has the same positions.
    angles: RefCell<Option<Angles>>,
    clock: Option<Clock>,
}

/// Events at both ends of a pass.
struct Clock {
    started: Event,
    finished: Event,
    timed: Cell<bool>,
}

/// Rotary tables of the positions `past .. past + length`, f32.
struct Angles {
    past: usize,
    length: usize,
    /// For our kernel, `[length, head_dim / 2]`; for torch's operations both halves of a head, `[length, 1, head_dim]`.
    cos: Tensor,
    /// Likewise; for torch's operations the first half is negative.
    sin: Tensor,
}

/// One pass.
pub(crate) struct Tokens {
    ids: Tensor,
    batch: usize,
    length: usize,
    past: usize,
    mask: Vec<u8>,
    angles: Angles,
    /// What the queries see, for the shape of the last layer: layers mostly have the same.
    visibility: RefCell<Option<(AttentionShape, Visibility)>>,
}

impl Tokens {
    fn sequences(&self) -> Sequences<'_> {
        Sequences {
            batch: self.batch,
            length: self.length,
            past: self.past,
            mask: &self.mask,
        }
    }
}

impl Angles {
    fn shallow_clone(&self) -> Self {
        Self {
            past: self.past,
            length: self.length,
            cos: self.cos.shallow_clone(),
            sin: self.sin.shallow_clone(),
        }
    }
}

impl TorchOps {
    pub(crate) fn new(context: Context) -> Result<Self> {
        let clock = match context.device {
            Device::Cuda(ordinal) => Some(Clock {
                started: Event::new(ordinal)?,
                finished: Event::new(ordinal)?,
                timed: Cell::new(false),
            }),
            _ => None,
        };
        Ok(Self {
            context,
            angles: RefCell::new(None),
            clock,
        })
    }

    fn angles(&self, pass: &Pass<'_>) -> Result<Angles> {
        let (past, length) = (pass.past, pass.tokens.length);
        let mut kept = self.angles.borrow_mut();
        let same = |angles: &&Angles| (angles.past, angles.length) == (past, length);
        if let Some(angles) = kept.as_ref().filter(same) {
            return Ok(angles.shallow_clone());
        }
        let table = |values: &[f32]| {
            Tensor::f_from_slice(values)
                .op("from_slice")?
                .f_to_device(self.context.device)
                .op("to device")?
                .f_view([length as i64, -1])
                .op("view")
        };
        let (mut cos, mut sin) = (table(pass.cos)?, table(pass.sin)?);
        if self.context.gpu.is_none() {
            let both = |first: &Tensor, second: &Tensor| {
                Tensor::f_cat(&[first, second], 1)
                    .op("cat")?
                    .f_unsqueeze(1)
                    .op("unsqueeze")
            };
            cos = both(&cos, &cos)?;
            sin = both(&sin.f_neg().op("neg")?, &sin)?;
        }
        let angles = Angles {
            past,
            length,
            cos,
            sin,
        };
        *kept = Some(angles.shallow_clone());
        Ok(angles)
    }

    /// Turned heads by torch's operations, computed in f32.
    fn turned(&self, x: &Tensor, head_dim: usize, tokens: &Tokens) -> Result<Tensor> {
        let (length, dim) = (tokens.length as i64, head_dim as i64);
        let heads = x.f_view([tokens.batch as i64, length, -1, dim]).op("view")?;
        let mut out = heads.f_mul(&tokens.angles.cos).op("mul")?;
        let swapped = heads
            .f_roll([dim / 2].as_slice(), [3_i64].as_slice())
            .op("roll")?
            .f_mul(&tokens.angles.sin)
            .op("mul")?;
        let _ = out.f_add_(&swapped).op("add_")?;
        out.f_to_kind(self.context.kind())
            .op("to the precision")?
            .f_view_as(x)
            .op("view_as")
    }

    fn silu_product(&self, gate: Tensor, up: &Tensor) -> Result<Tensor> {
        if let Some(gpu) = &self.context.gpu {
            gpu.silu_product(&gate, up)?;
            return Ok(gate);
        }
        let mut product = gate.f_to_kind(Kind::Float).op("to f32")?;
        let _ = product.f_silu_().op("silu_")?;
        let _ = product.f_mul_(up).op("mul_")?;
        product.f_to_kind(self.context.kind()).op("to the precision")
    }
}

impl Ops for TorchOps {
    type Tensor = Tensor;
    /// In f32, rounded to the precision.
    type Vector = Tensor;
    type Linear = Linear;
    type Cache = KeyValues;
    type Tokens = Tokens;
    type Pooled = Tensor;

    fn load_vector(&mut self, vector: Box<dyn StoredTensor>) -> Result<Loaded<Tensor>> {
        let (Some(dense), Layout::Dense(layout)) = (vector.dense(), vector.layout()) else {
            return Err(Error::Unsupported(format!(
                "a vector in layout {}; only dense floats are known",
                vector.layout().kind()
            )));
        };
        let mut rounded = vec![0; layout.cols * self.context.precision.size()];
        let mut values = vec![0.0; layout.cols];
        dense.read_row(0, &mut values)?;
        narrow(&values, self.context.precision, &mut rounded)?;
        widen(&rounded, self.context.precision, &mut values)?;
        let value = upload(
            bytemuck::cast_slice(&values),
            &[layout.cols as i64],
            DType::F32,
            self.context.device,
        )?;
        Ok(Loaded {
            value,
            bytes: (layout.cols * size_of::<f32>()) as u64,
            execution: Execution::Native {
                kernel: "f32".to_owned(),
            },
        })
    }

    fn load_linear(&mut self, weight: Box<dyn StoredTensor>, bias: Option<Tensor>) -> Result<Loaded<Linear>> {
        Linear::load(&self.context, weight, bias)
    }

    fn new_cache(&self, _batch: usize, _shape: &AttentionShape) -> Result<KeyValues> {
        Ok(KeyValues::default())
    }

    fn begin(&self, pass: &Pass<'_>) -> Result<Tokens> {
        self.context.enter()?;
        let tokens = &pass.tokens;
        let ids = Tensor::f_from_slice(bytemuck::cast_slice::<u32, i32>(tokens.ids))
            .op("from_slice")?
            .f_to_device(self.context.device)
            .op("to device")?;
        let angles = self.angles(pass)?;
        if let Some(clock) = &self.clock {
            clock.timed.set(false);
            clock.started.record()?;
        }
        Ok(Tokens {
            ids,
            batch: tokens.batch,
            length: tokens.length,
            past: pass.past,
            mask: tokens.mask.to_vec(),
            angles,
            visibility: RefCell::new(None),
        })
    }

    fn embed(&self, table: &Linear, tokens: &Tokens) -> Result<Tensor> {
        table.gather(&self.context, &tokens.ids)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        if let Some(gpu) = &self.context.gpu {
            return gpu.rms_norm(x, None, weight, eps);
        }
        let weight = weight.f_to_kind(x.kind()).op("to the precision")?;
        x.f_rms_norm(weight.size(), Some(&weight), f64::from(eps))
            .op("rms_norm")
    }

    fn add_rms_norm(&self, x: Tensor, y: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        if let Some(gpu) = &self.context.gpu {
            let normed = gpu.rms_norm(&x, Some(y), weight, eps)?;
            return Ok((x, normed));
        }
        let sum = self.add(x, y)?;
        let normed = self.rms_norm(&sum, weight, eps)?;
        Ok((sum, normed))
    }

    fn linear(&self, x: &Tensor, weight: &Linear) -> Result<Tensor> {
        weight.forward(&self.context, x, self.context.kind())
    }

    fn rope(&self, q: Tensor, k: Tensor, head_dim: usize, tokens: &Tokens) -> Result<(Tensor, Tensor)> {
        if let Some(gpu) = &self.context.gpu {
            gpu.rope((&q, &k), head_dim, (&tokens.angles.cos, &tokens.angles.sin))?;
            return Ok((q, k));
        }
        Ok((
            self.turned(&q, head_dim, tokens)?,
            self.turned(&k, head_dim, tokens)?,
        ))
    }

    fn attention(
        &self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: &AttentionShape,
        tokens: &Tokens,
        cache: Option<&mut KeyValues>,
    ) -> Result<Tensor> {
        let by_sequence = |tensor: &Tensor| {
            tensor
                .f_view([tokens.batch as i64, tokens.length as i64, -1])
                .op("view")
        };
        let new = [by_sequence(&k)?, by_sequence(&v)?];
        let [keys, values] = match cache {
            None => new,
            Some(cache) => cache.append(new.each_ref(), tokens.past)?,
        };
        let mut kept = tokens.visibility.borrow_mut();
        let visibility = match kept.take() {
            Some((of, visibility)) if of == *shape => visibility,
            _ => Visibility::new(&tokens.sequences(), shape, self.context.device)?,
        };
        let out = attention(&q, [&keys, &values], tokens.batch, shape, &visibility);
        *kept = Some((*shape, visibility));
        out
    }

    fn gated_mlp(&self, x: &Tensor, gate: &Linear, up: &Linear, down: &Linear) -> Result<Tensor> {
        let inner = self.linear(x, gate)?;
        let other = self.linear(x, up)?;
        let inner = self.silu_product(inner, &other)?;
        drop(other);
        self.linear(&inner, down)
    }

    fn add(&self, mut x: Tensor, y: &Tensor) -> Result<Tensor> {
        let _ = x.f_add_(y).op("add_")?;
        Ok(x)
    }

    fn last_positions(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        x.f_view([tokens.batch as i64, tokens.length as i64, -1])
            .op("view")?
            .f_narrow(1, tokens.length as i64 - 1, 1)
            .op("narrow")?
            .f_reshape([tokens.batch as i64, -1])
            .op("reshape")?
            // Our kernels take one block of memory.
            .f_contiguous()
            .op("contiguous")
    }

    fn project(&self, x: &Tensor, weight: &Linear, out: &mut [f32]) -> Result<()> {
        let step = (LOGITS / (weight.rows() * size_of::<f32>()).max(1)).max(1);
        for (part, out) in out.chunks_mut(step * weight.rows()).enumerate() {
            let first = part * step;
            let x = x
                .f_narrow(0, first as i64, (out.len() / weight.rows()) as i64)
                .op("narrow")?;
            download(&weight.forward(&self.context, &x, Kind::Float)?, out)?;
        }
        Ok(())
    }

    fn mean_pool(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let (batch, length) = (tokens.batch as i64, tokens.length as i64);
        let states = x.f_view([batch, length, -1]).op("view")?;
        let positions = tokens.past + tokens.length;
        let new: Vec<f32> = tokens
            .mask
            .chunks_exact(positions)
            .flat_map(|mask| {
                mask[tokens.past..]
                    .iter()
                    .map(|token| f32::from(u8::from(*token != 0)))
            })
            .collect();
        if new.iter().all(|token| *token == 1.0) {
            return states
                .f_mean_dim([1_i64].as_slice(), false, Kind::Float)
                .op("mean");
        }
        let counts: Vec<f32> = new
            .chunks_exact(tokens.length)
            .map(|mask| mask.iter().sum::<f32>().max(1.0))
            .collect();
        let on_device = |values: &[f32], shape: [i64; 3]| {
            Tensor::f_from_slice(values)
                .op("from_slice")?
                .f_to_device(self.context.device)
                .op("to device")?
                .f_view(shape)
                .op("view")
        };
        states
            .f_mul(&on_device(&new, [batch, length, 1])?)
            .op("mul")?
            .f_sum_dim_intlist([1_i64].as_slice(), true, Kind::Float)
            .op("sum")?
            .f_div(&on_device(&counts, [batch, 1, 1])?)
            .op("div")?
            .f_squeeze_dim(1)
            .op("squeeze")
    }

    fn read_pooled(&self, pooled: Tensor, out: &mut [f32]) -> Result<()> {
        download(&pooled, out)
    }

    fn copy_out(&self, x: &Tensor, out: &mut [f32]) -> Result<()> {
        download(x, out)
    }

    fn finish(&self) -> Result<()> {
        if let Some(clock) = &self.clock {
            clock.finished.record()?;
            clock.timed.set(true);
        }
        Ok(())
    }

    fn device_seconds(&self) -> Result<Option<f64>> {
        match self.clock.as_ref().filter(|clock| clock.timed.get()) {
            Some(clock) => clock.started.seconds_to(&clock.finished).map(Some),
            None => Ok(None),
        }
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn synchronize(&self) -> Result<()> {
        match self.context.device {
            Device::Cuda(ordinal) => native::synchronize(ordinal),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> Result<Memory> {
        match self.context.device {
            Device::Cuda(ordinal) => native::cuda_memory(ordinal),
            _ => Ok(native::cpu_memory()),
        }
    }

    fn workspace_bytes(&self) -> u64 {
        match self.context.device {
            Device::Cuda(_) => CUDA_WORKSPACE,
            _ => 0,
        }
    }

    fn reset_peak_memory(&self) -> Result<()> {
        if let Device::Cuda(ordinal) = self.context.device {
            return native::reset_cuda_peak(ordinal);
        }
        native::reset_cpu_peak();
        Ok(())
    }
}
