//! LLM.int8()'s products.

use qbench_kernels::{CUdeviceptr, Int8, int8_many, int8_quantize::Activations};
use qbench_sdk::Result;

use super::{Input, Output};
use crate::{error, gpu::Gpu};

/// Quantises the activations and multiplies: in one launch where they are few.
pub(crate) fn multiply_int8(
    gpu: &Gpu,
    weight: &Int8,
    x: Input,
    bias: Option<CUdeviceptr>,
    out: Output,
) -> Result<()> {
    let few = &gpu.kernels.int8_few;
    if bias.is_none() && x.element == out.element && few.fits(weight, x.tokens, x.element) {
        let product = [(weight, out.address)];
        // SAFETY: the weight's buffers were checked and written at load; input and output have the sizes told.
        return unsafe { few.run(&product, false, (x.address, x.tokens), x.element, gpu.stream()) }
            .map_err(error::kernel);
    }
    let bytes = Activations::new(0, weight, x.tokens, x.element).bytes;
    let workspace = gpu.buffer(bytes)?;
    let mut activations = Activations::new(workspace.address(), weight, x.tokens, x.element);
    let kernels = &gpu.kernels;
    let many = kernels
        .int8_many
        .as_ref()
        .filter(|_| bias.is_none() && x.element == out.element && int8_many::Many::fits(weight, x.element));
    if many.is_some() {
        activations = activations.for_many();
    }
    // SAFETY: the weight's buffers were checked at load; input, output and workspace have the sizes told.
    unsafe {
        kernels
            .int8_quantize
            .run(weight, x.address, x.tokens, x.element, &activations, gpu.stream())
            .map_err(error::kernel)?;
        match many {
            Some(many) => many.run(
                weight,
                &activations,
                x.tokens,
                out.address,
                x.element,
                gpu.stream(),
            ),
            None => kernels.int8_any.run(
                weight,
                &activations,
                x.tokens,
                x.element,
                bias,
                (out.address, out.element),
                gpu.stream(),
            ),
        }
    }
    .map_err(error::kernel)
}
