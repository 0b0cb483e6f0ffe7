//! Weight matrices in every layout, and their products with activations.

mod codebook;
mod dense;
mod foreign;
mod fp8;
mod int8;
pub(crate) mod product;
pub(crate) mod rows;

#[cfg(test)]
mod tests;

use std::ops::Range;

use qbench_architectures::Loaded;
use qbench_cpu_kernels::Operand;
use qbench_sdk::{
    DType, Error, Layout, MatrixMut, Result, StoredTensor,
    backend::{DequantizeWhen, Execution},
    layout::{fp8 as e4m3, int8::MAX_COLS},
};

use crate::{elementwise::round, kernels::Kernels};
use codebook::CodebookWeight;
use dense::DenseWeight;
use foreign::ForeignWeight;
use fp8::Fp8Weight;
use int8::Int8Weight;
use rows::{Scratch, elements};

/// A loaded weight matrix with its optional bias.
pub(crate) struct Linear {
    weight: Weight,
    rows: usize,
    cols: usize,
    bias: Option<Vec<f32>>,
    precision: DType,
    kernels: Kernels,
}

enum Weight {
    Dense(DenseWeight),
    Codebook(CodebookWeight),
    Int8(Int8Weight),
    Fp8(Fp8Weight),
    Foreign(ForeignWeight),
}

/// How a layout is run; what a weight of it turns out to need is decided when it is loaded.
pub(crate) fn execution(layout: &Layout, precision: DType, kernels: Kernels) -> Execution {
    let native = |kernel: String| Execution::Native { kernel };
    let unsupported = |reason: String| Execution::Unsupported { reason };
    match layout {
        Layout::Dense(dense) if !dense.dtype.is_float() => {
            unsupported(format!("dense {} values without a scale", dense.dtype))
        }
        Layout::Dense(dense) if dense.dtype != precision => native(format!(
            "{}, {} turned into {precision} at load",
            kernels.describe(precision),
            dense.dtype
        )),
        Layout::Dense(_) => native(kernels.describe(precision)),
        Layout::BlockCodebook(_) => native(match kernels {
            Kernels::Reference => "f32 gemm on decoded panels".to_owned(),
            Kernels::Own(_) => format!("{} from codes", kernels.describe(precision)),
        }),
        Layout::Int8Vectorwise(layout) if layout.cols > MAX_COLS => unsupported(format!(
            "{} columns: integer sums over more than {MAX_COLS} may not fit into 32 bits",
            layout.cols
        )),
        Layout::Int8Vectorwise(_) => native(match kernels {
            Kernels::Reference => "exact int8 product, f32 outliers".to_owned(),
            Kernels::Own(set) => format!("exact int8 tiles, f32 outliers, {set}"),
        }),
        Layout::ScaledFp8(layout) if layout.cols > e4m3::MAX_COLS => unsupported(format!(
            "{} columns: sums over more than {} are not exact in f64",
            layout.cols,
            e4m3::MAX_COLS
        )),
        Layout::ScaledFp8(_) => native("exact e4m3 product".to_owned()),
        // A custom layout, or a kind that is newer than this backend.
        _ => Execution::Dequantize {
            to: precision,
            when: DequantizeWhen::Forward,
        },
    }
}

impl Linear {
    /// Takes over a weight; must be called in the pool that computes.
    pub(crate) fn load(
        tensor: Box<dyn StoredTensor>,
        bias: Option<Vec<f32>>,
        precision: DType,
        kernels: Kernels,
    ) -> Result<Loaded<Self>> {
        let layout = tensor.layout().clone();
        check_buffers(tensor.as_ref())?;
        let mut execution = execution(&layout, precision, kernels);
        let mut bytes = layout.bytes() as u64;
        let weight = match &layout {
            _ if matches!(execution, Execution::Unsupported { .. }) => {
                return Err(Error::Unsupported(format!("{execution}")));
            }
            Layout::Dense(dense) => {
                bytes = (dense.rows * dense.cols * precision.size()) as u64;
                Weight::Dense(DenseWeight::new(tensor, precision)?)
            }
            Layout::BlockCodebook(layout) => {
                Weight::Codebook(CodebookWeight::new(tensor, layout.clone(), precision, kernels))
            }
            Layout::Int8Vectorwise(_) => Weight::Int8(Int8Weight::new(tensor, precision)),
            Layout::ScaledFp8(_) => Weight::Fp8(Fp8Weight::new(tensor)),
            _ => {
                let weight = ForeignWeight::new(tensor, precision)?;
                if weight.has_product() {
                    execution = Execution::SchemeMatmul;
                }
                Weight::Foreign(weight)
            }
        };
        Ok(Loaded {
            value: Self {
                weight,
                rows: layout.rows(),
                cols: layout.cols(),
                bias,
                precision,
                kernels,
            },
            bytes,
            execution,
        })
    }

    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// `out = x · Wᵀ + bias` for `x` `[tokens, cols]`, rounded once to `rounding`.
    ///
    /// # Panics
    /// When a slice has another size.
    pub(crate) fn forward(&self, x: &[f32], out: &mut [f32], rounding: DType) -> Result<()> {
        let tokens = x.len() / self.cols;
        assert!(
            x.len() == tokens * self.cols && out.len() == tokens * self.rows,
            "{} inputs and {} outputs of a {} x {} weight",
            x.len(),
            out.len(),
            self.rows,
            self.cols
        );
        let finish = |values: &mut [f32], first_row: usize| {
            if let Some(bias) = &self.bias {
                for (value, bias) in values.iter_mut().zip(&bias[first_row..]) {
                    *value += bias;
                }
            }
            round(values, rounding);
        };
        match &self.weight {
            Weight::Dense(weight) => product::product(
                self.kernels,
                self.precision,
                x,
                weight,
                (self.rows, self.cols),
                out,
                finish,
            ),
            Weight::Codebook(weight) => weight.product(self.kernels, x, out, finish),
            Weight::Int8(weight) => weight.product(self.kernels, x, out, rounding, self.bias.as_deref()),
            Weight::Fp8(weight) => weight.product(x, out, finish),
            Weight::Foreign(weight) => weight.product(self.kernels, x, (self.rows, self.cols), out, finish),
        }
    }

    /// Writes row `row` as values of the precision: an embedding.
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let tensor = match &self.weight {
            Weight::Dense(weight) => return weight.read_row(row, out),
            Weight::Codebook(weight) => weight.tensor(),
            Weight::Int8(weight) => weight.tensor(),
            Weight::Fp8(weight) => weight.tensor(),
            Weight::Foreign(weight) => weight.tensor(),
        };
        dequantize(tensor, row, out, self.cols, self.precision)
    }
}

/// Rows from `first_row` on through the scheme that stored them, rounded once to the precision.
fn dequantize(
    tensor: &dyn StoredTensor,
    first_row: usize,
    out: &mut [f32],
    cols: usize,
    precision: DType,
) -> Result<()> {
    let rows = out.len() / cols;
    let context = qbench_sdk::CallContext::single_threaded();
    if precision == DType::F32 && cfg!(target_endian = "little") {
        let mut out = MatrixMut::new(bytemuck::cast_slice_mut(out), rows, cols, DType::F32)?;
        return tensor.dequantize(first_row, &mut out, context);
    }
    let mut bytes = vec![0; out.len() * precision.size()];
    tensor.dequantize(
        first_row,
        &mut MatrixMut::new(&mut bytes, rows, cols, precision)?,
        context,
    )?;
    qbench_sdk::widen(&bytes, precision, out)
}

/// Rows through the scheme that stored them, as elements of an operand that holds the values of the precision.
fn dequantize_bytes<'a>(
    tensor: &dyn StoredTensor,
    rows: Range<usize>,
    operand: Operand,
    precision: DType,
    scratch: &'a mut Scratch,
) -> Result<&'a [u8]> {
    let cols = tensor.layout().cols();
    let count = rows.len() * cols;
    if operand == Operand::F32 {
        let values = elements(scratch, count);
        dequantize(tensor, rows.start, values, cols, precision)?;
        return Ok(bytemuck::cast_slice(values));
    }
    let bytes = elements(scratch, count * precision.size());
    tensor.dequantize(
        rows.start,
        &mut MatrixMut::new(bytes, rows.len(), cols, precision)?,
        qbench_sdk::CallContext::single_threaded(),
    )?;
    Ok(bytes)
}

/// Kernels index the buffers by the layout: their sizes are checked once, here.
fn check_buffers(tensor: &dyn StoredTensor) -> Result<()> {
    let layout = tensor.layout();
    layout.validate()?;
    layout.check_buffers((0..layout.buffers().len()).map(|index| tensor.buffer(index).len()))
}

/// Little-endian f32 values.
fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(bytes.len() / 4);
    values.extend(
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk)),
    );
    values
}
