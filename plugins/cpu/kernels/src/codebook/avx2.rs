//! Decoding by table look-up in two registers: eight values an instruction.

use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_loadl_epi64, _mm_set1_epi8, _mm_srli_epi16, _mm_srli_si128,
    _mm_unpacklo_epi8, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cvtepu8_epi32, _mm256_loadu_ps,
    _mm256_permutevar8x32_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::{Run, portable};

/// Elements whose codes are taken at once.
const STEP: usize = 16;

/// # Safety
/// The processor has AVX2; codes and scales suffice for `out`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn decode_f32(run: Run<'_>, mut out: &mut [f32]) {
    for (piece, scale, count) in run.pieces(out.len()) {
        let (values, rest) = out.split_at_mut(count);
        out = rest;
        let table = portable::table(run, scale);
        // SAFETY: 16 values.
        let (lower, upper) = unsafe {
            (
                _mm256_loadu_ps(table.as_ptr()),
                _mm256_loadu_ps(table.as_ptr().add(8)),
            )
        };
        let mut done = 0;
        if !piece.starts_second {
            let (steps, _) = values.as_chunks_mut::<STEP>();
            for (step, values) in steps.iter_mut().enumerate() {
                // SAFETY: the eight bytes of 16 elements, which the codes hold.
                let bytes = unsafe { _mm_loadl_epi64(piece.codes.as_ptr().add(step * STEP / 2).cast()) };
                let codes = nibbles(bytes, piece.high_first);
                for (codes, values) in [codes, _mm_srli_si128::<8>(codes)]
                    .into_iter()
                    .zip(values.as_chunks_mut::<8>().0)
                {
                    let codes = _mm256_cvtepu8_epi32(codes);
                    // A look-up in eight values minds three bits; the fourth becomes the sign, by which a blend chooses.
                    let is_upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                    let found = _mm256_blendv_ps(
                        _mm256_permutevar8x32_ps(lower, codes),
                        _mm256_permutevar8x32_ps(upper, codes),
                        is_upper,
                    );
                    // SAFETY: room for eight values.
                    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), found) };
                }
            }
            done = steps.len() * STEP;
        }
        // Whole bytes were done, if any.
        let piece = Run {
            codes: &piece.codes[done / 2..],
            ..piece
        };
        portable::decode(piece, &table, &mut values[done..]);
    }
}

/// The codes of eight bytes, one a byte, in their elements' order.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: __m128i, high_first: bool) -> __m128i {
    let low = _mm_set1_epi8(0xf);
    let lower = _mm_and_si128(bytes, low);
    let upper = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low);
    if high_first {
        _mm_unpacklo_epi8(upper, lower)
    } else {
        _mm_unpacklo_epi8(lower, upper)
    }
}
