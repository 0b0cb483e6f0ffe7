//! Double quantisation: the scales of 4-bit blocks in 8 bits (Dettmers et al. 2023, QLoRA).

mod dynamic_map;
mod mean;

pub(crate) use dynamic_map::DYNAMIC_MAP;

use crate::storage::absmax;

/// Scales a block of the second level.
pub(crate) const BLOCK: usize = 256;

/// What belongs to the codes of a vector of scales.
pub(crate) struct Nested {
    /// Largest magnitude of each block, after subtraction of the offset.
    pub(crate) scales: Vec<f32>,
    /// Mean of the vector.
    pub(crate) offset: f32,
}

/// Writes one code for each value: that of `f32(f32(value - mean) · f32(1 / scale))` in the [`DYNAMIC_MAP`]. A block
/// whose values all are the mean has scale 0 and codes 0. Source: bitsandbytes 0.50 on a CPU.
///
/// # Panics
/// When `codes` is not as long as `values`.
pub(crate) fn quantize(values: &[f32], codes: &mut [u8]) -> Nested {
    assert_eq!(values.len(), codes.len(), "one code for each value");
    let offset = mean::mean(values);
    let centred: Vec<f32> = values.iter().map(|value| value - offset).collect();
    let scales = centred
        .chunks(BLOCK)
        .zip(codes.chunks_mut(BLOCK))
        .map(|(values, codes)| quantize_block(values, codes))
        .collect();
    Nested { scales, offset }
}

fn quantize_block(values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = absmax(values);
    if scale == 0.0 {
        codes.fill(0);
    } else {
        let reciprocal = 1.0 / scale;
        for (code, value) in codes.iter_mut().zip(values) {
            *code = dynamic_map::code(value * reciprocal);
        }
    }
    scale
}

#[cfg(test)]
mod tests;
