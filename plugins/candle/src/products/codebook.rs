//! Products on the codes of a codebook.

use qbench_kernels::{Codebook, Element, codebook_many};
use qbench_sdk::Result;

use super::{Input, Output};
use crate::{error, gpu::Gpu};

/// Whether a kernel multiplies so many tokens on the codes.
pub(crate) fn multiplies_codes(gpu: &Gpu, weight: &Codebook, tokens: usize, element: Element) -> bool {
    gpu.kernels.codebook_few.fits(weight, tokens, element) || many_for(gpu, weight, tokens, element).is_some()
}

/// The kernel for many tokens, where it is the best way.
fn many_for<'a>(
    gpu: &'a Gpu,
    weight: &Codebook,
    tokens: usize,
    element: Element,
) -> Option<&'a codebook_many::Many> {
    gpu.kernels
        .codebook_many
        .as_ref()
        .filter(|many| codebook_many::Many::fits(weight, element) && many.is_faster(weight, tokens))
}

/// Multiplies on the codes, if a kernel fits; says whether one did.
pub(crate) fn multiply_codebook(gpu: &Gpu, weight: &Codebook, x: Input, out: Output) -> Result<bool> {
    if x.element != out.element {
        return Ok(false);
    }
    let kernels = &gpu.kernels;
    if kernels.codebook_few.fits(weight, x.tokens, x.element) {
        // SAFETY: the codebook's buffers were checked at load; input and output have the sizes told.
        unsafe {
            kernels
                .codebook_few
                .run(weight, x.address, x.tokens, out.address, x.element, gpu.stream())
        }
        .map_err(error::kernel)?;
        return Ok(true);
    }
    let Some(many) = many_for(gpu, weight, x.tokens, x.element) else {
        return Ok(false);
    };
    let workspace = gpu.buffer(many.workspace(weight, x.tokens))?;
    // SAFETY: as above, and the workspace is as long as asked for.
    unsafe {
        many.run(
            weight,
            x.address,
            x.tokens,
            out.address,
            x.element,
            workspace.address(),
            gpu.stream(),
        )
    }
    .map_err(error::kernel)?;
    Ok(true)
}
