//! Linear layers on the GPU: a weight matrix with its optional bias.

use qbench_architectures::Loaded;
use qbench_kernels::{CUdeviceptr, Element, dense_few::Shape};
use qbench_sdk::{DType, Result, StoredTensor};

use crate::{
    buffer::Buffer,
    error,
    fp8::Kept,
    gpu::{Gpu, element},
    products::{Input, Output, multiply_codebook, multiply_dense, multiply_int8},
    weight::{Rows, Weight},
};

/// A loaded weight matrix with its optional bias.
pub(crate) struct Linear {
    weight: Weight,
    rows: usize,
    cols: usize,
    /// f32 values.
    bias: Option<Buffer>,
    precision: DType,
}

impl Linear {
    pub(crate) fn load(
        gpu: &Gpu,
        tensor: &dyn StoredTensor,
        bias: Option<Buffer>,
        precision: DType,
        threads: usize,
    ) -> Result<Loaded<Self>> {
        let (weight, execution) = Weight::load(gpu, tensor, precision, threads)?;
        let (layout, bytes) = (tensor.layout(), weight.bytes());
        Ok(Loaded {
            value: Self {
                weight,
                rows: layout.rows(),
                cols: layout.cols(),
                bias,
                precision,
            },
            bytes: bytes as u64,
            execution,
        })
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    pub(crate) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    pub(crate) fn precision(&self) -> DType {
        self.precision
    }

    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// `x · Wᵀ + bias`, rounded once to the precision. `kept` belongs to `x`.
    pub(crate) fn forward(&self, gpu: &Gpu, x: CUdeviceptr, tokens: usize, kept: &Kept) -> Result<Buffer> {
        let out = gpu.buffer(tokens * self.rows * self.precision.size())?;
        self.multiply(gpu, (x, tokens), kept, (out.address(), element(self.precision)?))?;
        Ok(out)
    }

    /// The same for `silu(gate) · up` in place of `x`, if this weight's kernels do both at once.
    pub(crate) fn forward_gated(
        &self,
        gpu: &Gpu,
        (gate, up): (CUdeviceptr, CUdeviceptr),
        tokens: usize,
    ) -> Result<Option<Buffer>> {
        let Weight::Fp8(weight) = &self.weight else {
            return Ok(None);
        };
        let out = gpu.buffer(tokens * self.rows * self.precision.size())?;
        let bias = self.bias.as_ref().map(Buffer::address);
        weight.multiply_gated(
            gpu,
            (gate, up, tokens),
            bias,
            (out.address(), element(self.precision)?),
        )?;
        Ok(Some(out))
    }

    /// Writes `x · Wᵀ + bias`, rounded once to `out_element`, for `x` `[tokens, cols]` of the precision.
    pub(crate) fn forward_into(
        &self,
        gpu: &Gpu,
        x: (CUdeviceptr, usize),
        out: (CUdeviceptr, Element),
    ) -> Result<()> {
        self.multiply(gpu, x, &Kept::new(), out)
    }

    fn multiply(
        &self,
        gpu: &Gpu,
        (x, tokens): (CUdeviceptr, usize),
        kept: &Kept,
        (out, out_element): (CUdeviceptr, Element),
    ) -> Result<()> {
        let x = Input {
            address: x,
            tokens,
            element: element(self.precision)?,
        };
        let out = Output {
            address: out,
            element: out_element,
        };
        match (&self.weight, &self.bias) {
            (Weight::Int8 { int8, .. }, bias) => {
                multiply_int8(gpu, int8, x, bias.as_ref().map(Buffer::address), out)
            }
            (Weight::Fp8(weight), bias) => weight.multiply(
                gpu,
                (x.address, tokens, x.element),
                kept,
                bias.as_ref().map(Buffer::address),
                (out.address, out.element),
            ),
            (Weight::Codebook { codebook, .. }, None) if multiply_codebook(gpu, codebook, x, out)? => Ok(()),
            (_, None) => self.multiply_dense(gpu, x, out),
            (_, Some(bias)) => {
                let sums = gpu.buffer(tokens * self.rows * size_of::<f32>())?;
                let wide = Output {
                    address: sums.address(),
                    element: Element::F32,
                };
                self.multiply_dense(gpu, x, wide)?;
                // SAFETY: the sums and the output are `[tokens, rows]`, the bias has `rows` values.
                unsafe {
                    gpu.kernels.elementwise.add_bias(
                        sums.address(),
                        bias.address(),
                        out.address,
                        (tokens, self.rows),
                        out.element,
                        gpu.stream(),
                    )
                }
                .map_err(error::kernel)
            }
        }
    }

    /// By cuBLAS, with the weight as dense values.
    fn multiply_dense(&self, gpu: &Gpu, x: Input, out: Output) -> Result<()> {
        let shape = Shape {
            tokens: x.tokens,
            rows: self.rows,
            cols: self.cols,
        };
        let dense = self.dense(gpu)?;
        let settled = matches!(dense, Rows::Held(_));
        // SAFETY: the caller's memory has the shape's sizes, and the weight is `[rows, cols]`. One that is held was
        // written at load.
        unsafe {
            multiply_dense(
                gpu,
                shape,
                (x.address, dense.address(), x.element),
                (out.address, out.element),
                settled,
            )
        }
    }

    fn dense(&self, gpu: &Gpu) -> Result<Rows<'_>> {
        self.weight.dense(gpu, (self.rows, self.cols), self.precision)
    }

    /// The rows of a table of embeddings.
    pub(crate) fn gather(&self, gpu: &Gpu, indices: CUdeviceptr, count: usize) -> Result<Buffer> {
        let table = self.dense(gpu)?;
        let out = gpu.buffer(count * self.cols * self.precision.size())?;
        // SAFETY: the indices were checked to lie below the rows; sizes are those of the table and the output.
        unsafe {
            gpu.kernels.rows.gather(
                table.address(),
                indices,
                out.address(),
                count,
                self.cols,
                element(self.precision)?,
                gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(out)
    }
}
