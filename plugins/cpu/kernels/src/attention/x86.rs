//! Vectors of x86-64, and the kernels compiled for them.

use std::arch::x86_64::{
    __m256, __m256i, __m512, __mmask16, _MM_HINT_T1, _mm_add_ps, _mm_prefetch, _mm256_castps256_ps128,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

use super::{kernels, vector::Vector};
use crate::{
    matrix::{Block, View},
    x86::totals,
};

macro_rules! compiled {
    ($name:ident, $kernel:ident, $vector:ty, $features:literal) => {
        /// # Safety
        /// The processor has the features; the shapes fit.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(a: View<'_>, b: View<'_>, out: &mut Block<'_>) {
            // SAFETY: the caller's, handed on.
            unsafe { kernels::$kernel::<$vector>(a, b, out) }
        }
    };
}

compiled!(scores_512, scores, __m512, "avx512f,avx512dq");
compiled!(scores_256, scores, __m256, "avx2,fma");
compiled!(add_weighted_512, add_weighted, __m512, "avx512f,avx512dq");
compiled!(add_weighted_256, add_weighted, __m256, "avx2,fma");

#[inline(always)]
fn fetch(from: *const f32) {
    // SAFETY: every x86-64 processor has the instruction, which accepts any address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
}

impl Vector for __m512 {
    const LANES: usize = 16;
    const QUERIES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32, lanes: usize) -> Self {
        // SAFETY: the caller's; the mask lets through the floats that are there.
        unsafe {
            if lanes == Self::LANES {
                _mm512_loadu_ps(from)
            } else {
                _mm512_maskz_loadu_ps(first_bits(lanes), from)
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, lanes: usize) {
        // SAFETY: the caller's; the mask lets through the floats that there is room for.
        unsafe {
            if lanes == Self::LANES {
                _mm512_storeu_ps(to, self);
            } else {
                _mm512_mask_storeu_ps(to, first_bits(lanes), self);
            }
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn totals(vectors: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller's.
        unsafe { totals(vectors) }
    }

    #[inline(always)]
    fn fetch(from: *const f32) {
        fetch(from);
    }
}

/// A mask of the first lanes.
fn first_bits(lanes: usize) -> __mmask16 {
    (1 << lanes) - 1
}

impl Vector for __m256 {
    const LANES: usize = 8;
    /// Of two queries, as there are 16 registers.
    const QUERIES: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32, lanes: usize) -> Self {
        // SAFETY: the caller's; the mask lets through the floats that are there.
        unsafe {
            if lanes == Self::LANES {
                _mm256_loadu_ps(from)
            } else {
                _mm256_maskload_ps(from, first_lanes(lanes))
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, lanes: usize) {
        // SAFETY: the caller's; the mask lets through the floats that there is room for.
        unsafe {
            if lanes == Self::LANES {
                _mm256_storeu_ps(to, self);
            } else {
                _mm256_maskstore_ps(to, first_lanes(lanes), self);
            }
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller's; the sums are 128 bits, of any bit pattern.
        unsafe {
            // In each 128 bits: sums of a, b, c, d.
            let all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let sums = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
            std::mem::transmute(sums)
        }
    }

    #[inline(always)]
    fn fetch(from: *const f32) {
        fetch(from);
    }
}

/// A mask of the first lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn first_lanes(lanes: usize) -> __m256i {
    const ONES_AND_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let lanes: &[i32] = &ONES_AND_ZEROS[8 - lanes..][..8];
    // SAFETY: the processor has the instruction (the caller's), and eight numbers are there.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}
