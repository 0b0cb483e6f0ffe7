//! Weights in e4m3 (`qbench.scaled-fp8/1`), and the activations that they are multiplied with.

use std::cell::OnceCell;

use qbench_kernels::{
    CUdeviceptr, Element, Fp8, Fp8Activations,
    fp8_product::{Choice, Product, runs_on},
    fp8_quantize::Quantize,
};
use qbench_sdk::{Error, Result, StoredTensor, backend::Execution, layout::ScaledFp8};

use crate::{buffer::Buffer, error, gpu::Gpu};

/// The kernels, which older GPUs have no code for.
pub(crate) struct Kernels {
    quantize: Quantize,
    product: Product,
}

/// Activations in e4m3, from when a product first asks for them: products of one input share them.
pub(crate) type Kept = OnceCell<Quantized>;

pub(crate) struct Quantized {
    activations: Fp8Activations,
    #[cfg_attr(not(test), expect(dead_code, reason = "held for what lies in it"))]
    buffer: Buffer,
}

/// How a layout is run on a GPU of this compute capability.
pub(crate) fn execution(layout: &ScaledFp8, capability: (i32, i32)) -> Execution {
    if !runs_on(capability) {
        // To run fp8 weights on activations that are no fp8 would be another scheme.
        return Execution::Unsupported {
            reason: format!(
                "products in e4m3 need compute capability 8.9 or later, this GPU has {}.{}",
                capability.0, capability.1
            ),
        };
    }
    let weight = shape(layout);
    let padded = (weight.padded_rows(), weight.pitch());
    let filled = if padded == (layout.rows, layout.cols) {
        String::new()
    } else {
        format!(", the weight filled up with zeros to {} x {}", padded.0, padded.1)
    };
    Execution::Native {
        kernel: format!("fp8_quantize, cuBLASLt e4m3{filled}"),
    }
}

fn shape(layout: &ScaledFp8) -> Fp8 {
    Fp8 {
        rows: layout.rows,
        cols: layout.cols,
        codes: 0,
        scales: 0,
    }
}

impl Kernels {
    pub(crate) fn load() -> Result<Self> {
        let product = Product::load(Choice::default()).map_err(error::kernel)?;
        Ok(Self {
            product: product
                .ok_or_else(|| Error::Unsupported("products in e4m3 on a GPU before 8.9".to_owned()))?,
            quantize: Quantize::load().map_err(error::kernel)?,
        })
    }
}

/// A weight, filled up with zeros to whole packs of 16 codes.
pub(crate) struct Fp8Weight {
    weight: Fp8,
    buffers: [Buffer; 2],
}

impl Fp8Weight {
    pub(crate) fn load(gpu: &Gpu, tensor: &dyn StoredTensor, layout: &ScaledFp8) -> Result<Self> {
        // Once, before anything is timed.
        gpu.fp8()?;
        let mut weight = shape(layout);
        let (rows, pitch) = (weight.padded_rows(), weight.pitch());
        let codes = if (rows, pitch) == (layout.rows, layout.cols) {
            gpu.upload(tensor.buffer(0))?
        } else {
            let mut padded = vec![0; rows * pitch];
            for (to, from) in padded
                .chunks_exact_mut(pitch)
                .zip(tensor.buffer(0).chunks_exact(layout.cols))
            {
                to[..layout.cols].copy_from_slice(from);
            }
            gpu.upload(&padded)?
        };
        let mut scales = tensor.buffer(1).to_vec();
        scales.resize(rows * size_of::<f32>(), 0);
        let scales = gpu.upload(&scales)?;
        (weight.codes, weight.scales) = (codes.address(), scales.address());
        Ok(Self {
            weight,
            buffers: [codes, scales],
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::bytes).sum()
    }

    /// Writes `x · Wᵀ + bias`, rounded once, for `x` `[tokens, cols]` of `element`, which `kept` holds in e4m3 or will.
    pub(crate) fn multiply(
        &self,
        gpu: &Gpu,
        (x, tokens, element): (CUdeviceptr, usize, Element),
        kept: &Kept,
        bias: Option<CUdeviceptr>,
        out: (CUdeviceptr, Element),
    ) -> Result<()> {
        let quantized = if let Some(quantized) = kept.get() {
            quantized
        } else {
            let size = (tokens, self.weight.cols);
            let new = Quantized::new(gpu, size, |to| {
                // SAFETY: `x` has the sizes told; `to` was divided for them.
                unsafe { gpu.fp8()?.quantize.run(x, size, element, to, gpu.stream()) }.map_err(error::kernel)
            })?;
            kept.get_or_init(|| new)
        };
        self.product(gpu, quantized, tokens, bias, out)
    }

    /// The same for `silu(gate) · up` in place of `x`.
    pub(crate) fn multiply_gated(
        &self,
        gpu: &Gpu,
        (gate, up, tokens): (CUdeviceptr, CUdeviceptr, usize),
        bias: Option<CUdeviceptr>,
        out: (CUdeviceptr, Element),
    ) -> Result<()> {
        let quantized = Quantized::new(gpu, (tokens, self.weight.cols), |to| {
            // SAFETY: both have the sizes told and the output's type; `to` was divided for them.
            unsafe {
                gpu.fp8()?
                    .quantize
                    .run_gated((gate, up), (tokens, self.weight.cols), out.1, to, gpu.stream())
            }
            .map_err(error::kernel)
        })?;
        self.product(gpu, &quantized, tokens, bias, out)
    }

    fn product(
        &self,
        gpu: &Gpu,
        x: &Quantized,
        tokens: usize,
        bias: Option<CUdeviceptr>,
        out: (CUdeviceptr, Element),
    ) -> Result<()> {
        let product = &gpu.fp8()?.product;
        let bytes = product
            .sums(&self.weight, tokens, out.1, bias.is_some())
            .map_err(error::kernel)?;
        let sums = gpu.buffer(bytes)?;
        // SAFETY: the weight's buffers were checked at load; all memory has the sizes asked for, and cuBLAS uses the
        // workspace on this stream only.
        unsafe {
            product.run(
                &self.weight,
                &x.activations,
                tokens,
                bias,
                out,
                gpu.workspace(),
                sums.address(),
                gpu.stream(),
            )
        }
        .map_err(error::kernel)
    }
}

impl Quantized {
    fn new(
        gpu: &Gpu,
        (tokens, cols): (usize, usize),
        quantize: impl FnOnce(&Fp8Activations) -> Result<()>,
    ) -> Result<Self> {
        let buffer = gpu.buffer(Fp8Activations::new(0, tokens, cols).bytes)?;
        let activations = Fp8Activations::new(buffer.address(), tokens, cols);
        quantize(&activations)?;
        Ok(Self { activations, buffer })
    }

    /// All bytes, once everything before them is done.
    #[cfg(test)]
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.buffer.bytes()];
        self.buffer.read(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_gpus_and_odd_shapes_are_told() {
        let (whole, odd) = (ScaledFp8 { rows: 32, cols: 64 }, ScaledFp8 { rows: 33, cols: 70 });
        let text = |layout: &ScaledFp8, capability| execution(layout, capability).to_string();
        assert_eq!(text(&whole, (9, 0)), "native: fp8_quantize, cuBLASLt e4m3");
        assert_eq!(
            text(&odd, (8, 9)),
            "native: fp8_quantize, cuBLASLt e4m3, the weight filled up with zeros to 48 x 80"
        );
        assert_eq!(
            text(&whole, (8, 6)),
            "unsupported: products in e4m3 need compute capability 8.9 or later, this GPU has 8.6"
        );
    }
}
