//! Decoding by table look-up in a register: 16 values of f32, or 32 of bf16, an instruction. Products of blocks that are
//! whole steps are in [`products`].

pub(super) mod products;

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _CMP_UNORD_Q, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castps_si512, _mm512_castsi256_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
    _mm512_cvtepi32_epi16, _mm512_cvtepu8_epi32, _mm512_cvtepu8_epi64, _mm512_cvtph_ps, _mm512_cvtps_ph,
    _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_loadu_ps, _mm512_mask_mov_epi32, _mm512_mul_ps,
    _mm512_or_si512, _mm512_permutexvar_epi16, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_slli_epi64,
    _mm512_srli_epi32, _mm512_srli_epi64, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::{DOT_STEP, Rounding, Run, portable};

/// Bytes of codes between what is multiplied and what is fetched: processors stop fetching ahead at the end of a page.
const AHEAD: usize = 2 << 10;

/// The 16 values of a block.
///
/// NaN stays NaN, quiet and with the upper part of its payload, as in the portable form.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn table(codebook: __m512, scale: f32, rounding: Rounding) -> __m512 {
    let values = _mm512_mul_ps(codebook, _mm512_set1_ps(scale));
    match rounding {
        Rounding::F32 => values,
        Rounding::F16 => {
            _mm512_cvtph_ps(_mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(values))
        }
        Rounding::Bf16 => {
            let bits = _mm512_castps_si512(values);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            // Half a unit less one, plus one for an odd neighbour: what lies halfway goes to the even one.
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let rounded = _mm512_mask_mov_epi32(up, nan, quiet);
            _mm512_castsi512_ps(_mm512_and_si512(
                rounded,
                _mm512_set1_epi32(0xffff_0000_u32 as i32),
            ))
        }
    }
}

/// # Safety
/// The processor has AVX-512; codes and scales suffice for `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn decode_f32(run: Run<'_>, mut out: &mut [f32]) {
    // SAFETY: 16 values.
    let codebook = unsafe { _mm512_loadu_ps(run.codebook.as_ptr()) };
    for (piece, scale, count) in run.pieces(out.len()) {
        let (values, rest) = out.split_at_mut(count);
        out = rest;
        let table = table(codebook, scale, run.rounding);
        let mut done = 0;
        if !piece.starts_second {
            let (steps, _) = values.as_chunks_mut::<16>();
            for (step, values) in steps.iter_mut().enumerate() {
                // SAFETY: the eight bytes of 16 elements, which the codes hold.
                let bytes = unsafe { _mm_loadl_epi64(piece.codes.as_ptr().add(step * 8).cast()) };
                let bytes = _mm512_cvtepu8_epi64(bytes);
                // The index of the first element below, that of the second above; the look-up minds four bits alone.
                let index = if piece.high_first {
                    _mm512_or_si512(_mm512_srli_epi64::<4>(bytes), _mm512_slli_epi64::<32>(bytes))
                } else {
                    _mm512_or_si512(bytes, _mm512_slli_epi64::<28>(bytes))
                };
                // SAFETY: room for 16 values.
                unsafe { _mm512_storeu_ps(values.as_mut_ptr(), _mm512_permutexvar_ps(index, table)) };
            }
            done = steps.len() * 16;
        }
        if done < count {
            let mut lanes = [0.0; 16];
            // SAFETY: room for 16 values.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), table) };
            // Whole bytes were done, if any.
            let piece = Run {
                codes: &piece.codes[done / 2..],
                ..piece
            };
            portable::decode(piece, &lanes, &mut values[done..]);
        }
    }
}

/// # Safety
/// The processor has AVX-512; codes and scales suffice for `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn decode_bf16(run: Run<'_>, mut out: &mut [u16]) {
    // SAFETY: 16 values.
    let codebook = unsafe { _mm512_loadu_ps(run.codebook.as_ptr()) };
    for (piece, scale, count) in run.pieces(out.len()) {
        let (values, rest) = out.split_at_mut(count);
        out = rest;
        let table = _mm512_castps_si512(table(codebook, scale, run.rounding));
        let short = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(table));
        // Twice the same 16 values: the look-up minds five bits, of which the fifth is not ours.
        let table: __m512i = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(short), short);
        let mut done = 0;
        if !piece.starts_second {
            let (steps, _) = values.as_chunks_mut::<32>();
            for (step, values) in steps.iter_mut().enumerate() {
                // SAFETY: the 16 bytes of 32 elements, which the codes hold.
                let bytes = unsafe { _mm_loadu_si128(piece.codes.as_ptr().add(step * 16).cast()) };
                let index = pair_index(bytes, piece.high_first);
                // SAFETY: room for 32 values.
                unsafe {
                    _mm512_storeu_si512(values.as_mut_ptr().cast(), _mm512_permutexvar_epi16(index, table));
                }
            }
            done = steps.len() * 32;
        }
        if done < count {
            let mut lanes = [0_u16; 32];
            // SAFETY: room for 32 values.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), table) };
            let piece = Run {
                codes: &piece.codes[done / 2..],
                ..piece
            };
            let (tables, _) = lanes.as_chunks::<16>();
            portable::decode(piece, &tables[0], &mut values[done..]);
        }
    }
}

/// # Safety
/// The processor has AVX-512; the run begins with a byte and on a step of its block, blocks and `cols` are whole steps,
/// codes and scales suffice for `cols` elements, `tokens` holds `TOKENS · cols` values, `sums` `TOKENS`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dot<const TOKENS: usize>(run: Run<'_>, tokens: &[f32], cols: usize, sums: &mut [f32]) {
    // SAFETY: 16 values.
    let codebook = unsafe { _mm512_loadu_ps(run.codebook.as_ptr()) };
    let mut even = [_mm512_setzero_ps(); TOKENS];
    let mut odd = [_mm512_setzero_ps(); TOKENS];
    let (first_shift, second_shift) = if run.high_first { (4, 0) } else { (0, 4) };
    let (first_shift, second_shift) = (_mm512_set1_epi32(first_shift), _mm512_set1_epi32(second_shift));
    let mut at = 0;
    for (piece, scale, count) in run.pieces(cols) {
        let table = table(codebook, scale, run.rounding);
        for step in 0..count / DOT_STEP {
            // SAFETY: the 16 bytes of 32 elements, which the codes hold.
            let bytes = unsafe { _mm_loadu_si128(piece.codes.as_ptr().add(step * 16).cast()) };
            _mm_prefetch::<_MM_HINT_T0>(piece.codes.as_ptr().wrapping_add(step * 16 + AHEAD).cast());
            let bytes = _mm512_cvtepu8_epi32(bytes);
            let shift = |by| std::arch::x86_64::_mm512_srlv_epi32(bytes, by);
            // The look-up minds four bits of an index alone.
            let first = _mm512_permutexvar_ps(shift(first_shift), table);
            let second = _mm512_permutexvar_ps(shift(second_shift), table);
            for token in 0..TOKENS {
                // SAFETY: 32 values of the token from element `at` on, at + 32 <= cols.
                unsafe {
                    let x = tokens.as_ptr().add(token * cols + at);
                    even[token] = _mm512_fmadd_ps(_mm512_loadu_ps(x), first, even[token]);
                    odd[token] = _mm512_fmadd_ps(_mm512_loadu_ps(x.add(16)), second, odd[token]);
                }
            }
            at += DOT_STEP;
        }
    }
    for (sum, (even, odd)) in sums.iter_mut().zip(even.into_iter().zip(odd)) {
        *sum = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
    }
}

/// Indices of 32 elements for a look-up of 16 bits each, of which it minds the lowest five.
#[target_feature(enable = "avx512f")]
fn pair_index(bytes: __m128i, high_first: bool) -> __m512i {
    let bytes = _mm512_cvtepu8_epi32(bytes);
    if high_first {
        _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes))
    } else {
        _mm512_or_si512(bytes, _mm512_slli_epi32::<12>(bytes))
    }
}
