//! Tile kernels of 256 bits.

use std::arch::x86_64::{
    _mm256_add_epi32, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps,
    _mm256_storeu_si256,
};

use super::{PANEL_LANES, Sums, TOKEN_LANES, Tile};

/// Vectors of a unit's lanes.
const VECTORS: usize = PANEL_LANES / 8;

/// Tokens whose sums fill the 16 registers beside the weights.
const STEP: usize = 3;

macro_rules! kernel {
    ($name:ident, $sum:ty, $features:literal, $zero:ident, $load:expr, $splat:expr, $dot:expr,
     $load_sums:expr, $add:ident, $store:expr) => {
        /// # Safety
        /// The processor has the features; `sums` has room for the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(tile: Tile<'_>, out: Sums<$sum>) {
            for first in (0..tile.count).step_by(STEP) {
                let mut sums = [[$zero(); VECTORS]; STEP];
                let (tokens, _) = tile.tokens.as_chunks::<TOKEN_LANES>();
                let (weights, _) = tile.weights.as_chunks::<PANEL_LANES>();
                for (tokens, weights) in tokens.iter().zip(weights) {
                    let mut row = [$zero(); VECTORS];
                    for (vector, row) in row.iter_mut().enumerate() {
                        // SAFETY: eight lanes from `vector · 8` on lie in the 32 of a unit.
                        *row = unsafe { $load(weights.as_ptr().add(vector * 8)) };
                    }
                    for (index, sums) in sums.iter_mut().enumerate() {
                        let token = $splat(tokens[first + index]);
                        for (sum, weight) in sums.iter_mut().zip(row) {
                            *sum = $dot(*sum, token, weight);
                        }
                    }
                }
                for (index, sums) in sums.iter().enumerate().take(tile.count - first) {
                    // SAFETY: token `first + index` < count: within the caller's room.
                    let target = unsafe { out.data.add((first + index) * out.stride) };
                    if tile.lanes == PANEL_LANES {
                        for (vector, sum) in sums.iter().enumerate() {
                            // SAFETY: all 32 lanes of the row are the caller's room.
                            unsafe {
                                let target = target.add(vector * 8);
                                let sum = if tile.add {
                                    $add($load_sums(target), *sum)
                                } else {
                                    *sum
                                };
                                $store(target, sum);
                            }
                        }
                    } else {
                        let mut lanes = [<$sum>::default(); PANEL_LANES];
                        for (vector, sum) in sums.iter().enumerate() {
                            // SAFETY: eight lanes from `vector · 8` on lie in the array.
                            unsafe { $store(lanes.as_mut_ptr().add(vector * 8), *sum) };
                        }
                        for (lane, sum) in lanes[..tile.lanes].iter().enumerate() {
                            // SAFETY: `lane` < lanes: within the caller's room.
                            let target = unsafe { &mut *target.add(lane) };
                            *target = if tile.add { *target + sum } else { *sum };
                        }
                    }
                }
            }
        }
    };
}

kernel!(
    f32,
    f32,
    "avx2,fma",
    _mm256_setzero_ps,
    |lanes: *const u32| _mm256_loadu_ps(lanes.cast()),
    |token| _mm256_set1_ps(f32::from_bits(token)),
    |sum, token, weight| _mm256_fmadd_ps(token, weight, sum),
    |sums: *mut f32| _mm256_loadu_ps(sums),
    _mm256_add_ps,
    |sums: *mut f32, value| _mm256_storeu_ps(sums, value)
);

kernel!(
    i16,
    i32,
    "avx2,fma",
    _mm256_setzero_si256,
    |lanes: *const u32| _mm256_loadu_si256(lanes.cast()),
    |token| _mm256_set1_epi32(token as i32),
    |sum, token, weight| _mm256_add_epi32(sum, _mm256_madd_epi16(token, weight)),
    |sums: *mut i32| _mm256_loadu_si256(sums.cast()),
    _mm256_add_epi32,
    |sums: *mut i32, value| _mm256_storeu_si256(sums.cast(), value)
);
