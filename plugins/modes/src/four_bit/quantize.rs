//! From weights to packed codes and block scales.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into `dispatch` is not compiled for the CPU's vector instructions"
)]

use qbench_sdk::{Matrix, Result, layout::four_bit::Table, parallel};

use super::bins::Bins;
use crate::storage::{PART, absmax, read_flat};

/// f32(1e-38): what a block's scale is taken for at least, so that its reciprocal is finite.
const SCALE_FLOOR: f32 = 1.0e-38;

/// Elements whose codes are found together; every block size is a multiple.
const LANES: usize = 32;

/// Writes two codes a byte, the first of each pair in the upper half, and returns the scale of each block of `block`
/// consecutive elements of the flattened matrix: its largest magnitude.
///
/// An element becomes the bucket of `f32(x · f32(1 / scale))`; in a last block that is not full, of `f32(x / scale)`,
/// and that block's scale is at least f32(1e-38). Source: bitsandbytes 0.50, `quantize_4bit` on a CPU.
///
/// # Errors
/// [`Unsupported`](qbench_sdk::Error::Unsupported) for integer weights.
pub(super) fn quantize(
    source: &Matrix<'_>,
    block: usize,
    table: &Table,
    codes: &mut [u8],
    threads: usize,
) -> Result<Vec<f32>> {
    let elements = source.rows() * source.cols();
    let mut scales = vec![0.0; elements.div_ceil(block)];
    let bins = usable_bins(table);
    let parts = codes
        .chunks_mut(PART / 2)
        .zip(scales.chunks_mut(PART / block))
        .enumerate();
    parallel::for_each(parts, threads, |(part, (codes, scales))| {
        let first = part * PART;
        let mut values = vec![0.0; PART.min(elements - first)];
        read_flat(source, first, &mut values)?;
        let done = match &bins {
            Some(bins) => full_blocks(&values, block, bins, codes, scales),
            None => 0,
        };
        let (values, codes) = (&mut values[done * block..], &mut codes[done * block / 2..]);
        pulp::Arch::new().dispatch(|| quantize_part(values, block, table, codes, &mut scales[done..]));
        Ok(())
    })?;
    Ok(scales)
}

/// The table's bins where [`full_blocks`] can use them.
fn usable_bins(table: &Table) -> Option<Bins> {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::is_available() {
        return Bins::new(table);
    }
    None
}

/// Quantises the full blocks by look-up and returns their number.
fn full_blocks(values: &[f32], block: usize, bins: &Bins, codes: &mut [u8], scales: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: there are bins where the instructions are there alone.
    unsafe {
        super::avx512::full_blocks(values, block, bins, codes, scales);
        values.len() / block
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no bins on this architecture")
}

#[inline(always)]
fn quantize_part(values: &mut [f32], block: usize, table: &Table, codes: &mut [u8], scales: &mut [f32]) {
    let blocks = values.chunks_mut(block).zip(codes.chunks_mut(block / 2));
    for ((values, codes), scale) in blocks.zip(scales) {
        *scale = if values.len() == block {
            full_block(values, table, codes)
        } else {
            partial_block(values, table, codes)
        };
    }
}

#[inline(always)]
fn full_block(values: &mut [f32], table: &Table, codes: &mut [u8]) -> f32 {
    let scale = absmax(values);
    let reciprocal = 1.0 / at_least_floor(scale);
    for value in values.iter_mut() {
        *value *= reciprocal;
    }
    pack(values, table, codes);
    scale
}

#[inline(always)]
fn partial_block(values: &mut [f32], table: &Table, codes: &mut [u8]) -> f32 {
    let scale = at_least_floor(absmax(values));
    for value in values.iter_mut() {
        *value /= scale;
    }
    pack(values, table, codes);
    scale
}

/// Unlike `f32::max`, keeps a NaN.
pub(super) fn at_least_floor(scale: f32) -> f32 {
    if scale < SCALE_FLOOR { SCALE_FLOOR } else { scale }
}

/// Codes of normalised values, two a byte. A last half byte that is left over holds the code of 0.
#[inline(always)]
fn pack(values: &[f32], table: &Table, codes: &mut [u8]) {
    let (full, rest) = values.as_chunks::<LANES>();
    let (full_codes, rest_codes) = codes.split_at_mut(full.len() * LANES / 2);
    for (values, codes) in full.iter().zip(full_codes.as_chunks_mut::<{ LANES / 2 }>().0) {
        *codes = pack_lanes(values, table);
    }
    if !rest.is_empty() {
        let mut values = [0.0; LANES];
        values[..rest.len()].copy_from_slice(rest);
        rest_codes.copy_from_slice(&pack_lanes(&values, table)[..rest.len().div_ceil(2)]);
    }
}

#[inline(always)]
fn pack_lanes(values: &[f32; LANES], table: &Table) -> [u8; LANES / 2] {
    let codes = codes(values, table);
    let mut packed = [0; LANES / 2];
    for (byte, [first, second]) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (first << 4 | second) as u8;
    }
    packed
}

/// The code of each value: that of the last bucket, less a step for every bound that the value does not exceed. There is
/// no branch, and NaN exceeds all bounds.
#[inline(always)]
fn codes(values: &[f32; LANES], table: &Table) -> [i32; LANES] {
    let mut codes = [0; LANES];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = i32::from(table.codes[15]);
        for (bucket, bound) in table.bounds.iter().enumerate() {
            let step = i32::from(table.codes[bucket + 1]) - i32::from(table.codes[bucket]);
            *code -= if value <= bound { step } else { 0 };
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use qbench_sdk::layout::four_bit::{FP4, NF4};

    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below() {
        for table in [&NF4, &FP4] {
            let code = |value: f32| codes(&[value; LANES], table)[LANES - 1];
            let expected = |bucket: usize| i32::from(table.codes[bucket]);
            for (bucket, bound) in table.bounds.iter().enumerate() {
                assert_eq!(code(bound.next_down()), expected(bucket), "below {bound}");
                assert_eq!(code(*bound), expected(bucket), "{bound}");
                assert_eq!(code(bound.next_up()), expected(bucket + 1), "above {bound}");
            }
            assert_eq!([-1.0, f32::NEG_INFINITY].map(code), [expected(0); 2]);
            assert_eq!([1.0, f32::INFINITY, f32::NAN].map(code), [expected(15); 3]);
        }
    }

    /// Look-ups against comparisons, at and beside each bound, at the ends, and for numbers of all sizes.
    #[test]
    fn both_forms_find_the_same_codes() {
        for table in [&NF4, &FP4] {
            let Some(bins) = usable_bins(table) else {
                return;
            };
            let mut values: Vec<f32> = table
                .bounds
                .iter()
                .flat_map(|bound| [bound.next_down(), *bound, bound.next_up()])
                .chain([0.0, -0.0, 1.0, -1.0, 1.0_f32.next_up(), 1e-40, -1e-40])
                .collect();
            let mut state = 1_u32;
            values.resize_with(64 * 400, || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            });
            // Scales of 1, which leave the values what they are, others, and broken ones.
            for (block, factor) in [(0, 1.0), (20, 3.7e-5), (40, 1e-39), (60, 1e38), (80, 0.0)] {
                for value in &mut values[block * 64..] {
                    *value *= factor;
                }
            }
            values[100 * 64] = f32::NAN;
            values[101 * 64 + 5] = f32::NEG_INFINITY;
            for block in [64, 32, 128] {
                let found = |by_look_up: bool| {
                    let (mut codes, mut scales) =
                        (vec![0; values.len() / 2], vec![0.0; values.len() / block]);
                    if by_look_up {
                        assert_eq!(
                            full_blocks(&values, block, &bins, &mut codes, &mut scales),
                            scales.len()
                        );
                    } else {
                        quantize_part(&mut values.clone(), block, table, &mut codes, &mut scales);
                    }
                    let scales: Vec<u32> = scales.into_iter().map(f32::to_bits).collect();
                    (codes, scales)
                };
                assert!(found(true) == found(false), "blocks of {block}");
            }
        }
    }

    #[test]
    fn only_a_full_block_multiplies_with_the_reciprocal() {
        // numpy in f32: 12794 / 43813 is 3e9582d5, just above the bound 3e9582d4 between NF4's codes 10 and 11, and
        // 12794 * (1 / 43813) is the bound itself.
        let mut values = [43813.0, 12794.0];
        let mut codes = [0];
        assert_eq!(full_block(&mut values.clone(), &NF4, &mut codes), 43813.0);
        assert_eq!(codes, [0xfa]);
        assert_eq!(partial_block(&mut values, &NF4, &mut codes), 43813.0);
        assert_eq!(codes, [0xfb]);
    }

    #[test]
    fn an_odd_element_shares_its_byte_with_a_zero() {
        let mut codes = [0; 2];
        pack(&[1.0, -1.0, 1.0], &NF4, &mut codes);
        assert_eq!(codes, [0xf0, 0xf7]);
        pack(&[1.0, -1.0, 1.0], &FP4, &mut codes);
        assert_eq!(codes, [0x3b, 0x30]);
    }
}
