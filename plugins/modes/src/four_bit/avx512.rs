//! Blocks with AVX-512: the same codes as [`quantize`](super::quantize)'s portable form, found by look-up instead of
//! a comparison with every bound.

use std::arch::x86_64::{
    __m512, __m512i, _CMP_GT_OQ, _mm_storeu_si128, _mm256_castsi128_si256, _mm256_cvtepi16_epi8,
    _mm256_inserti128_si256, _mm256_maddubs_epi16, _mm256_set1_epi16, _mm512_abs_ps, _mm512_castps_si512,
    _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8, _mm512_cvttps_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_mov_epi32, _mm512_max_epi32, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_permutex2var_epi32, _mm512_permutex2var_ps, _mm512_reduce_max_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512,
};

use super::{
    bins::{BINS, BOUNDS, Bins, SCALE, SHIFT},
    quantize::at_least_floor,
};

/// Whether this processor has the instructions.
pub(super) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// The tables of [`Bins`] in registers.
#[derive(Clone, Copy)]
struct Tables {
    bounds: [[__m512; 2]; BOUNDS],
    codes: [[__m512i; 2]; BOUNDS + 1],
}

/// Codes of full blocks, two a byte, and their scales. Elements beyond the last full block are left alone.
///
/// # Safety
/// The processor has the instructions ([`is_available`]).
///
/// # Panics
/// When a block is no multiple of 32 elements, or there is no room.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn full_blocks(
    values: &[f32],
    block: usize,
    bins: &Bins,
    codes: &mut [u8],
    scales: &mut [f32],
) {
    assert!(block > 0 && block.is_multiple_of(32), "blocks of {block}");
    let floats = |values: &[f32; BINS]| {
        // SAFETY: 32 values.
        unsafe {
            [
                _mm512_loadu_ps(values.as_ptr()),
                _mm512_loadu_ps(values.as_ptr().add(16)),
            ]
        }
    };
    let integers = |values: &[i32; BINS]| {
        // SAFETY: 32 values.
        unsafe {
            [
                _mm512_loadu_si512(values.as_ptr().cast()),
                _mm512_loadu_si512(values.as_ptr().add(16).cast()),
            ]
        }
    };
    let tables = Tables {
        bounds: bins.bounds.each_ref().map(floats),
        codes: bins.codes.each_ref().map(integers),
    };
    let count = values.len() / block;
    let codes = &mut codes[..count * block / 2];
    let blocks = values.chunks_exact(block).zip(codes.chunks_exact_mut(block / 2));
    for ((values, codes), scale) in blocks.zip(&mut scales[..count]) {
        let (values, _) = values.as_chunks::<32>();
        *scale = absmax(values);
        let reciprocal = 1.0 / at_least_floor(*scale);
        for (values, codes) in values.iter().zip(codes.as_chunks_mut::<16>().0) {
            if bins.most <= 1 {
                pack::<1>(values, reciprocal, &tables, codes);
            } else {
                pack::<BOUNDS>(values, reciprocal, &tables, codes);
            }
        }
    }
}

/// The largest magnitude; NaN when any value is NaN: magnitudes are ordered as their bits are, with NaN above infinity.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn absmax(values: &[[f32; 32]]) -> f32 {
    let mut max = _mm512_setzero_si512();
    for values in values.as_flattened().as_chunks::<16>().0 {
        // SAFETY: 16 values.
        let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
        max = _mm512_max_epi32(max, _mm512_castps_si512(_mm512_abs_ps(values)));
    }
    f32::from_bits(_mm512_reduce_max_epi32(max).cast_unsigned())
}

/// Writes the codes of the values times the factor, for tables with up to `COMPARED` bounds a bin.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn pack<const COMPARED: usize>(values: &[f32; 32], factor: f32, tables: &Tables, codes: &mut [u8; 16]) {
    let half = |at: usize| {
        // SAFETY: 16 values from the first or the middle one on.
        let values = unsafe { _mm512_loadu_ps(values.as_ptr().add(at)) };
        let values = _mm512_mul_ps(values, _mm512_set1_ps(factor));
        let place = _mm512_fmadd_ps(values, _mm512_set1_ps(SCALE), _mm512_set1_ps(SHIFT));
        // The second operand is taken for a NaN: like the largest numbers it becomes the last bucket's code.
        let place = _mm512_min_ps(place, _mm512_set1_ps((BINS - 1) as f32));
        let bin = _mm512_cvttps_epi32(_mm512_max_ps(place, _mm512_setzero_ps()));
        let look_up = |[first, second]: [__m512i; 2]| _mm512_permutex2var_epi32(first, bin, second);
        let mut codes = look_up(tables.codes[0]);
        for (bounds, above) in tables.bounds[..COMPARED].iter().zip(&tables.codes[1..]) {
            let bound = _mm512_permutex2var_ps(bounds[0], bin, bounds[1]);
            let exceeds = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, bound);
            codes = _mm512_mask_mov_epi32(codes, exceeds, look_up(*above));
        }
        _mm512_cvtepi32_epi8(codes)
    };
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(half(0)), half(16));
    // 16 times the first of two codes, once the second.
    let pairs = _mm256_maddubs_epi16(both, _mm256_set1_epi16(0x0110));
    // SAFETY: room for 16 bytes.
    unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm256_cvtepi16_epi8(pairs)) };
}
