//! Weight matrices in every layout, and their products with activations.

mod codebook;
mod fp8;
mod held;
mod int8;

#[cfg(test)]
mod tests;

use qbench_architectures::{Loaded, dequantize_in_parts};
use qbench_kernels::{
    codebook_few, dense_few, fp8_product,
    scheme_kernel::{self, SchemeKernel},
};
use qbench_sdk::{
    CudaKernel, DType, Error, Layout, Result, StoredTensor,
    backend::{DequantizeWhen, Execution},
    layout::{fp8 as e4m3, int8::MAX_COLS},
};
use tch::{Device, Kind, Tensor};

use crate::{
    context::{Context, Means},
    error::Named,
    gpu,
    tensors::{kind, upload},
};
use codebook::CodebookWeight;
use fp8::Fp8Weight;
pub(crate) use held::Held;
use int8::{Int8Weight, integer_kernel};

/// A loaded weight matrix with its optional bias.
pub(crate) struct Linear {
    weight: Weight,
    rows: usize,
    cols: usize,
    /// f32 values, rounded to the precision.
    bias: Option<Tensor>,
}

enum Weight {
    /// `[rows, cols]` of the precision.
    Dense(Held),
    Codebook(CodebookWeight),
    Int8(Int8Weight),
    Fp8(Fp8Weight),
    /// Turned into floats by the scheme's own kernel, for each product.
    Scheme(SchemeKernel, Held),
}

/// Rows and columns of e4m3 weights are filled up to a multiple of this for tensor cores.
const FP8_PACK: usize = 16;

/// Whether our kernels, on a GPU of that compute capability, multiply e4m3 numbers.
fn multiplies_fp8(own: Option<(i32, i32)>) -> bool {
    own.is_some_and(fp8_product::runs_on)
}

/// How a layout is run on a device, if its scheme brings `kernel`; and why not by that kernel, where it could be.
pub(crate) fn execution_with_kernel(
    layout: &Layout,
    precision: DType,
    means: Means,
    kernel: Option<&CudaKernel>,
) -> (Execution, Option<String>) {
    let without = execution(layout, precision, means);
    match (&without, kernel, means.own) {
        (
            Execution::Dequantize {
                when: DequantizeWhen::Load,
                ..
            },
            Some(kernel),
            Some(_),
        ) => scheme_kernel::execution(kernel, precision),
        _ => (without, None),
    }
}

/// How a layout is run with these means.
pub(crate) fn execution(layout: &Layout, precision: DType, means: Means) -> Execution {
    let own = means.own;
    let native = |kernel: String| Execution::Native { kernel };
    let unsupported = |reason: String| Execution::Unsupported { reason };
    let dense = match own {
        Some(_) => format!(
            "dense_few to {} tokens, torch linear {precision} beyond",
            dense_few::MOST_TOKENS
        ),
        None => format!("torch linear {precision}"),
    };
    match layout {
        Layout::Dense(layout) if !layout.dtype.is_float() => {
            unsupported(format!("dense {} values without a scale", layout.dtype))
        }
        Layout::Dense(layout) if layout.dtype != precision => {
            native(format!("{dense}, {} turned into it at load", layout.dtype))
        }
        Layout::Dense(_) => native(dense),
        Layout::BlockCodebook(layout)
            if own.is_some_and(|(major, _)| gpu::fuses_codebook(layout, precision, major)) =>
        {
            native(format!(
                "codebook_few to {} tokens, then codebook_many, or dequantize and torch linear where that is faster",
                codebook_few::MOST_TOKENS
            ))
        }
        Layout::BlockCodebook(_) => Execution::Dequantize {
            to: precision,
            when: DequantizeWhen::Forward,
        },
        Layout::Int8Vectorwise(layout) if layout.cols > MAX_COLS => unsupported(format!(
            "{} columns: integer sums over more than {MAX_COLS} may not fit into 32 bits",
            layout.cols
        )),
        Layout::Int8Vectorwise(layout) => native(match own {
            Some((major, _)) => gpu::int8_kernel(layout, precision, major),
            None => integer_kernel(means),
        }),
        Layout::ScaledFp8(_) if multiplies_fp8(own) => native("fp8_quantize, cuBLASLt e4m3".to_owned()),
        Layout::ScaledFp8(layout) if layout.cols > e4m3::MAX_COLS => unsupported(format!(
            "{} columns: sums over more than {} are not exact in f64",
            layout.cols,
            e4m3::MAX_COLS
        )),
        Layout::ScaledFp8(_) => native("exact e4m3 product in f64".to_owned()),
        // A custom layout, or a kind that is newer than this backend.
        _ => Execution::Dequantize {
            to: precision,
            when: DequantizeWhen::Load,
        },
    }
}

impl Linear {
    /// Takes over a weight and its bias.
    pub(crate) fn load(
        context: &Context,
        stored: Box<dyn StoredTensor>,
        bias: Option<Tensor>,
    ) -> Result<Loaded<Self>> {
        let layout = stored.layout().clone();
        layout.validate()?;
        layout.check_buffers((0..layout.buffers().len()).map(|index| stored.buffer(index).len()))?;
        let (brought, own) = (stored.cuda_kernel()?, context.means.own);
        let (execution, _) =
            execution_with_kernel(&layout, context.precision, context.means, brought.as_ref());
        let mut bytes = layout.bytes();
        let device = context.device;
        let weight = match &layout {
            _ if matches!(execution, Execution::Unsupported { .. }) => {
                return Err(Error::Unsupported(format!("{execution}")));
            }
            _ if let (Execution::SchemeKernel { .. }, Some(brought), Some(gpu)) =
                (&execution, &brought, &context.gpu) =>
            {
                let kernel = gpu.scheme_kernel(brought, &layout)?;
                Weight::Scheme(kernel, Held::new(stored, &layout, device)?)
            }
            Layout::Dense(dense) if dense.dtype == context.precision => {
                Weight::Dense(Held::new(stored, &layout, device)?)
            }
            Layout::BlockCodebook(codebook) => Weight::Codebook(CodebookWeight::new(
                codebook.clone(),
                Held::new(stored, &layout, device)?,
            )?),
            Layout::Int8Vectorwise(_) => Weight::Int8(Int8Weight::new(
                Held::new(stored, &layout, device)?,
                context.means,
            )?),
            Layout::ScaledFp8(fp8) => {
                let gpu = context.gpu.as_ref().filter(|_| multiplies_fp8(own));
                // Before anything is timed.
                let pack = match gpu.map(gpu::Gpu::fp8).transpose()? {
                    Some(_) => FP8_PACK,
                    None => 1,
                };
                let weight = Fp8Weight::new(fp8, Held::new(stored, &layout, device)?, pack)?;
                bytes = weight.bytes();
                Weight::Fp8(weight)
            }
            _ => {
                let dense = dequantized(context, stored.as_ref())?;
                bytes = layout.rows() * layout.cols() * context.precision.size();
                Weight::Dense(Held::made(vec![dense]))
            }
        };
        Ok(Loaded {
            value: Self {
                weight,
                rows: layout.rows(),
                cols: layout.cols(),
                bias,
            },
            bytes: bytes as u64,
            execution,
        })
    }

    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// `x · Wᵀ + bias` for `x` `[tokens, cols]` of the precision, rounded to `out`: the precision or f32.
    pub(crate) fn forward(&self, context: &Context, x: &Tensor, out: Kind) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let own = context.gpu.as_ref();
        match &self.weight {
            Weight::Int8(weight) => match own {
                Some(gpu) => gpu.int8_product(weight.held(), (self.rows, self.cols), x, bias, out),
                None => weight.product(x, bias, out),
            },
            Weight::Fp8(weight) => match own.filter(|_| multiplies_fp8(context.means.own)) {
                Some(gpu) => gpu.fp8_product(weight.held(), (self.rows, self.cols), x, bias, out),
                None => weight.product(x, bias, out),
            },
            Weight::Scheme(..) => dense_product(context, x, &self.dense(context)?, bias, out),
            Weight::Codebook(weight) => {
                if let (Some(gpu), None) = (own, bias)
                    && out == context.kind()
                    && let Some(product) = gpu.codebook_product(weight.layout(), weight.held(), x)?
                {
                    return Ok(product);
                }
                dense_product(context, x, &self.dense(context)?, bias, out)
            }
            Weight::Dense(weight) => dense_product(context, x, weight.tensor(0), bias, out),
        }
    }

    /// The weight as `[rows, cols]` of the precision.
    fn dense(&self, context: &Context) -> Result<Tensor> {
        match (&self.weight, &context.gpu) {
            (Weight::Dense(held), _) => Ok(held.tensor(0).shallow_clone()),
            (Weight::Codebook(weight), Some(gpu)) if weight.layout().bits == 4 => {
                gpu.decode(weight.layout(), weight.held())
            }
            (Weight::Codebook(weight), _) => weight.decode(context.kind()),
            (Weight::Int8(weight), _) => weight.decode(context.kind()),
            (Weight::Fp8(weight), _) => weight.decode(context.kind()),
            (Weight::Scheme(kernel, held), Some(gpu)) => {
                gpu.scheme_decode(kernel, (self.rows, self.cols), held)
            }
            (Weight::Scheme(..), None) => Err(Error::Internal("a scheme's kernel without a GPU".to_owned())),
        }
    }

    /// The rows of a table of embeddings.
    pub(crate) fn gather(&self, context: &Context, indices: &Tensor) -> Result<Tensor> {
        self.dense(context)?.f_index_select(0, indices).op("index_select")
    }
}

/// `x · Wᵀ + bias` for a weight of the precision, with sums in f32.
fn dense_product(
    context: &Context,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    out: Kind,
) -> Result<Tensor> {
    if let (Some(gpu), None) = (&context.gpu, bias)
        && let Some(product) = gpu.dense_product(x, weight, out)?
    {
        return Ok(product);
    }
    if x.kind() == out {
        let bias = bias
            .map(|bias| bias.f_to_kind(out).op("to the precision"))
            .transpose()?;
        return x.f_linear(weight, bias.as_ref()).op("linear");
    }
    // Sums that are not rounded to the type of the factors.
    let wide = |tensor: &Tensor| tensor.f_to_kind(out).op("to f32");
    let sums = match context.device {
        Device::Cuda(_) => x
            .f_mm_dtype(&weight.f_transpose(0, 1).op("transpose")?, out)
            .op("mm")?,
        _ => wide(x)?
            .f_mm(&wide(weight)?.f_transpose(0, 1).op("transpose")?)
            .op("mm")?,
    };
    match bias {
        Some(bias) => sums.f_add(bias).op("add"),
        None => Ok(sums),
    }
}

/// The weight as dense values of the precision, a part at a time through memory of the host.
fn dequantized(context: &Context, stored: &dyn StoredTensor) -> Result<Tensor> {
    let (precision, layout) = (context.precision, stored.layout());
    let (rows, cols) = (layout.rows() as i64, layout.cols() as i64);
    let all = Tensor::f_empty([rows, cols], (kind(precision), context.device)).op("empty")?;
    dequantize_in_parts(stored, precision, context.threads, |first, count, part| {
        let part = upload(part, &[count as i64, cols], precision, context.device)?;
        all.f_narrow(0, first as i64, count as i64)
            .op("narrow")?
            .f_copy_(&part)
            .op("copy_")
    })?;
    Ok(all)
}
