//! What several kernels of one instruction set share.

use std::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps};

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
