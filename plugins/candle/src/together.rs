//! Products of several weights with the same activations: in one launch, or with one quantisation, where that is possible.

use qbench_kernels::{
    CUdeviceptr, Codebook, Element, Int8,
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
    let element = element(gate.precision())?;
    if let Some(int8s) = int8s(&weights) {
        let few = &gpu.kernels.int8_few;
        if !int8s.iter().all(|weight| few.fits(weight, tokens, element)) {
            return Ok(None);
        }
        let products: Vec<_> = int8s.into_iter().zip([out.address(); 2]).collect();
        // SAFETY: as in `int8`.
        unsafe { few.run(&products, true, (x, tokens), element, gpu.stream()) }.map_err(error::kernel)?;
        return Ok(Some(out));
    }
    let Some(codebooks) = codebooks(&weights) else {
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

/// Weights that were turned into floats in one launch.
pub(crate) struct Floats {
    element: Element,
    /// Rows, columns, and where the floats lie.
    weights: Vec<(usize, usize, CUdeviceptr)>,
    _memory: Buffer,
}

impl Floats {
    /// The floats of all weights, where all are codebooks, add no bias, and products of so many tokens need floats.
    pub(crate) fn of(gpu: &Gpu, weights: &[&Linear], tokens: usize) -> Result<Option<Self>> {
        let element = element(weights[0].precision())?;
        let codebooks: Option<Vec<&Codebook>> = weights
            .iter()
            .map(|weight| match weight.weight() {
                Weight::Codebook { codebook, .. } if !weight.has_bias() => {
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
            return Ok(None);
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
        let weights = floats
            .iter()
            .map(|(weight, at)| (weight.rows, weight.cols, *at))
            .collect();
        Ok(Some(Self {
            element,
            weights,
            _memory: memory,
        }))
    }

    /// Writes `x · Wᵀ` of a weight, rounded once to the precision.
    ///
    /// # Safety
    /// `x` and `out` have room for so many rows of the weight's columns and rows.
    pub(crate) unsafe fn multiply(
        &self,
        gpu: &Gpu,
        weight: usize,
        (x, tokens): (CUdeviceptr, usize),
        out: CUdeviceptr,
    ) -> Result<()> {
        let (rows, cols, floats) = self.weights[weight];
        let shape = Shape { tokens, rows, cols };
        // SAFETY: as the caller promises; the floats may just have been made, so they are not settled.
        unsafe { multiply_dense(gpu, shape, (x, floats, self.element), (out, self.element), false) }
    }
}

/// Turns all codebooks into floats in one launch, where products need floats, and multiplies with each.
fn made(gpu: &Gpu, weights: &[&Linear], x: (CUdeviceptr, usize), out: &[CUdeviceptr]) -> Result<bool> {
    let Some(floats) = Floats::of(gpu, weights, x.1)? else {
        return Ok(false);
    };
    for (weight, out) in out.iter().enumerate() {
        // SAFETY: activations and results have the sizes told.
        unsafe { floats.multiply(gpu, weight, x, *out) }?;
    }
    Ok(true)
}

/// The weights in signed bytes, if all are, with equal thresholds.
fn int8s<'a>(weights: &[&'a Linear]) -> Option<Vec<&'a Int8>> {
    let mut first = None;
    weights
        .iter()
        .map(|weight| match weight.weight() {
            Weight::Int8 { int8, threshold, .. } => {
                (*first.get_or_insert(threshold) == threshold).then_some(int8)
            }
            _ => None,
        })
        .collect()
}

/// Quantises the activations once for all weights, in the launch that multiplies where they are few.
fn int8(
    gpu: &Gpu,
    weights: &[&Linear],
    (x, tokens): (CUdeviceptr, usize),
    out: &[CUdeviceptr],
) -> Result<bool> {
    let element = element(weights[0].precision())?;
    let Some(weights) = int8s(weights) else {
        return Ok(false);
    };
    let few = &gpu.kernels.int8_few;
    if weights.iter().all(|weight| few.fits(weight, tokens, element)) {
        let products: Vec<_> = weights.into_iter().zip(out.iter().copied()).collect();
        // SAFETY: the weights' buffers were checked and written at load; activations and results have the sizes told.
        unsafe { few.run(&products, false, (x, tokens), element, gpu.stream()) }.map_err(error::kernel)?;
        return Ok(true);
    }
    let Some(many) = &gpu.kernels.int8_many else {
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
