//! What several kernels of one instruction set share.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm_add_ps, _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps,
    _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps512_ps256, _mm512_dpbf16_ps,
    _mm512_extractf32x8_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

/// Adds the products of 16 pairs of bf16 to 16 sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn dot_bf16(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: both types are vectors of 512 bits, of any bit pattern.
    let (a, b) = unsafe {
        (
            std::mem::transmute::<__m512i, __m512bh>(a),
            std::mem::transmute::<__m512i, __m512bh>(b),
        )
    };
    _mm512_dpbf16_ps(sum, a, b)
}

/// The total of each of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn totals([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // In each 128 bits: sums of a, of b, of a, of b.
    let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (ab, cd) = (_mm512_castps_pd(pair(a, b)), _mm512_castps_pd(pair(c, d)));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    // In each 128 bits: sums of a, b, c, d.
    let all = _mm512_add_ps(low, high);
    let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
    let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    // SAFETY: both are 128 bits, of any bit pattern.
    unsafe { std::mem::transmute(quarter) }
}
