//! Products of several weights with the same activations: in one launch, or with one quantisation, where that is possible.

use qbench_kernels::{
    CUdeviceptr, Codebook, Int8,
    codebook_dequantize::Dequantize,
    codebook_few::Together,
    dense_few::{self, Shape},
    int8_many,
    int8_quantize::Activations,
};
use qbench_sdk::Result;

use crate::{
    buffer::Buffer,
    error,
    gpu::{Gpu, element},
    linear::Linear,
    products::{multiplies_codes, multiply_dense},
    weight::Weight,
};

/// Bytes of floats that codes are turned into at once: of small matrices, where a launch each costs more than its work, and
/// which the second-level cache still holds when they are multiplied.
const MADE_BYTES: usize = 32 << 20;

/// `x · Wᵀ` of each weight, for `x` of so many rows, rounded once to the precision; `None` where nothing is gained by
/// doing it together.
pub(crate) fn apart<const N: usize>(
    gpu: &Gpu,
    weights: [&Linear; N],
    (x, tokens): (CUdeviceptr, usize),
) -> Result<Option<[Buffer; N]>> {
    if !alike(&weights) {
        return Ok(None);
    }
    let size = weights[0].precision().size();
    let products: Vec<Buffer> = weights
        .iter()
        .map(|weight| gpu.buffer(tokens * weight.rows() * size))
        .collect::<Result<_>>()?;
    let out: Vec<CUdeviceptr> = products.iter().map(Buffer::address).collect();
    let done = dense(gpu, &weights, false, (x, tokens), &out)?
        || codebook(gpu, &weights, (x, tokens), &out)?
        || made(gpu, &weights, (x, tokens), &out)?
        || int8(gpu, &weights, (x, tokens), &out)?;
    Ok(done.then(|| products.try_into().ok()).flatten())
}

/// `silu(gate(x)) · up(x)`, both products rounded first, if one launch can do it.
pub(crate) fn gated(
    gpu: &Gpu,
    (gate, up): (&Linear, &Linear),
    (x, tokens): (CUdeviceptr, usize),
) -> Result<Option<Buffer>> {
    let weights = [gate, up];
    if !alike(&weights) || gate.rows() != up.rows() {
        return Ok(None);
    }
    let out = gpu.buffer(tokens * gate.rows() * gate.precision().size())?;
    if dense(gpu, &weights, true, (x, tokens), &[out.address(); 2])? {
        return Ok(Some(out));
    }
    let (Some(codebooks), element) = (codebooks(&weights), element(gate.precision())?) else {
        return Ok(None);
    };
    let few = &gpu.kernels.codebook_few;
    if !few.fits_together(&codebooks, true, tokens, element) {
        return Ok(None);
    }
    let together = Together::Gated {
        gate: codebooks[0],
        up: codebooks[1],
        y: out.address(),
    };
    // SAFETY: as in `codebook`.
    unsafe { few.run_together(together, (x, tokens), element, gpu.stream()) }.map_err(error::kernel)?;
    Ok(Some(out))
}

/// Whether the weights take the same activations and add no bias.
fn alike(weights: &[&Linear]) -> bool {
    weights.iter().all(|weight| {
        !weight.has_bias()
            && (weight.cols(), weight.precision()) == (weights[0].cols(), weights[0].precision())
    })
}

fn dense(
    gpu: &Gpu,
    weights: &[&Linear],
    gated: bool,
    (x, tokens): (CUdeviceptr, usize),
    out: &[CUdeviceptr],
) -> Result<bool> {
    let parts: Option<Vec<_>> = weights
        .iter()
        .zip(out)
        .map(|(weight, y)| match weight.weight() {
            Weight::Dense(buffer) => Some(dense_few::Weight {
                address: buffer.address(),
                rows: weight.rows(),
                y: *y,
            }),
            _ => None,
        })
        .collect();
    let cols = weights[0].cols();
    let shape = Shape {
        tokens,
        rows: weights.iter().map(|weight| weight.rows()).sum(),
        cols,
    };
    let Some(parts) = parts.filter(|_| shape.fits()) else {
        return Ok(false);
    };
    // SAFETY: activations and results have the sizes told; held weights were written at load.
    unsafe {
        gpu.kernels.dense_few.run_together(
            &parts,
            gated,
            (x, tokens, cols),
            element(weights[0].precision())?,
            gpu.stream(),
        )
    }
    .map_err(error::kernel)?;
    Ok(true)
}

/// The weights as codebooks, if all are, with tables of the same values.
fn codebooks<'a>(weights: &[&'a Linear]) -> Option<Vec<&'a Codebook>> {
    let mut first = None;
    weights
        .iter()
        .map(|weight| match weight.weight() {
            Weight::Codebook { codebook, tables, .. } => {
                (*first.get_or_insert(tables) == tables).then_some(codebook)
            }
            _ => None,
        })
        .collect()
}

fn codebook(
    gpu: &Gpu,
    weights: &[&Linear],
    (x, tokens): (CUdeviceptr, usize),
    out: &[CUdeviceptr],
) -> Result<bool> {
    let few = &gpu.kernels.codebook_few;
    let element = element(weights[0].precision())?;
    let Some(codebooks) =
        codebooks(weights).filter(|weights| few.fits_together(weights, false, tokens, element))
    else {
        return Ok(false);
    };
    let parts: Vec<_> = codebooks.into_iter().zip(out.iter().copied()).collect();
    // SAFETY: the codebooks' buffers were checked and written at load, their tables are equal; activations and results
    // have the sizes told.
    unsafe { few.run_together(Together::Apart(&parts), (x, tokens), element, gpu.stream()) }
        .map_err(error::kernel)?;
    Ok(true)
}

/// Turns all codebooks into floats in one launch, where products need floats, and multiplies with each.
fn made(
    gpu: &Gpu,
    weights: &[&Linear],
    (x, tokens): (CUdeviceptr, usize),
    out: &[CUdeviceptr],
) -> Result<bool> {
    let element = element(weights[0].precision())?;
    let codebooks: Option<Vec<&Codebook>> = weights
        .iter()
        .map(|weight| match weight.weight() {
            Weight::Codebook { codebook, .. } => {
                (!multiplies_codes(gpu, codebook, tokens, element)).then_some(codebook)
            }
            _ => None,
        })
        .collect();
    // Each on 256 bytes, which a kernel may ask for.
    let bytes = |weight: &Codebook| (weight.rows * weight.cols * element.size()).next_multiple_of(256);
    let Some(codebooks) = codebooks.filter(|weights| {
        Dequantize::fits_together(weights)
            && weights.iter().map(|weight| bytes(weight)).sum::<usize>() <= MADE_BYTES
    }) else {
        return Ok(false);
    };
    let memory = gpu.buffer(codebooks.iter().map(|weight| bytes(weight)).sum())?;
    let mut at = memory.address();
    let floats: Vec<(&Codebook, CUdeviceptr)> = codebooks
        .into_iter()
        .map(|weight| {
            let its = at;
            at += bytes(weight) as u64;
            (weight, its)
        })
        .collect();
    // SAFETY: the codebooks' buffers were checked at load, and there is room for every row.
    unsafe {
        gpu.kernels
            .dequantize
            .run_together(&floats, element, gpu.stream())
    }
    .map_err(error::kernel)?;
    for ((weight, floats), out) in floats.into_iter().zip(out) {
        let shape = Shape {
            tokens,
            rows: weight.rows,
            cols: weight.cols,
        };
        // SAFETY: activations and results have the sizes told; the floats were just made, so they are not settled.
        unsafe { multiply_dense(gpu, shape, (x, floats, element), (*out, element), false) }?;
    }
    Ok(true)
}

/// Quantises the activations once for all weights.
fn int8(
    gpu: &Gpu,
    weights: &[&Linear],
    (x, tokens): (CUdeviceptr, usize),
    out: &[CUdeviceptr],
) -> Result<bool> {
    let element = element(weights[0].precision())?;
    let mut first = None;
    let weights: Option<Vec<&Int8>> = weights
        .iter()
        .map(|weight| match weight.weight() {
            Weight::Int8 { int8, threshold, .. } => {
                (*first.get_or_insert(threshold) == threshold).then_some(int8)
            }
            _ => None,
        })
        .collect();
    let (Some(weights), Some(many)) = (weights, &gpu.kernels.int8_many) else {
        return Ok(false);
    };
    let Some(largest) = weights.iter().max_by_key(|weight| weight.rows).filter(|_| {
        weights
            .iter()
            .all(|weight| int8_many::Many::fits(weight, element))
    }) else {
        return Ok(false);
    };
    let workspace = gpu.buffer(Activations::new(0, largest, tokens, element).bytes)?;
    let activations = Activations::new(workspace.address(), largest, tokens, element).for_many();
    let quantize = &gpu.kernels.int8_quantize;
    for (index, (weight, out)) in weights.iter().zip(out).enumerate() {
        // SAFETY: the weights' buffers were checked at load; the workspace has room for the largest, and activations and
        // results have the sizes told.
        unsafe {
            if index == 0 {
                quantize.run(weight, x, tokens, element, &activations, gpu.stream())
            } else {
                quantize.gather(weight, x, tokens, element, &activations, gpu.stream())
            }
            .and_then(|()| many.run(weight, &activations, tokens, *out, element, gpu.stream()))
        }
        .map_err(error::kernel)?;
    }
    Ok(true)
}
