//! Tile kernels of 512 bits: two vectors of weights, up to twelve tokens, 24 vectors of sums.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_epi32, _mm512_add_ps, _mm512_castsi512_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512,
};

use super::{PANEL_LANES, Sums, TOKEN_LANES, Tile};
use crate::x86::dot_bf16;

macro_rules! kernel {
    ($name:ident, $tile:ident, $sum:ty, $vector:ty, $features:literal, $zero:ident, $dot:expr, $load:ident, $add:ident,
     $store:ident) => {
        /// # Safety
        /// The processor has the features; `sums` has room for the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(tile: Tile<'_>, out: Sums<$sum>) {
            // SAFETY: the caller's, handed on.
            unsafe {
                match tile.count {
                    1 => $tile::<1>(tile, out),
                    2 => $tile::<2>(tile, out),
                    3 => $tile::<3>(tile, out),
                    4 => $tile::<4>(tile, out),
                    5 => $tile::<5>(tile, out),
                    6 => $tile::<6>(tile, out),
                    7 => $tile::<7>(tile, out),
                    8 => $tile::<8>(tile, out),
                    9 => $tile::<9>(tile, out),
                    10 => $tile::<10>(tile, out),
                    11 => $tile::<11>(tile, out),
                    _ => $tile::<TOKEN_LANES>(tile, out),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $tile<const COUNT: usize>(tile: Tile<'_>, out: Sums<$sum>) {
            let mut sums: [[$vector; 2]; COUNT] = [[$zero(); 2]; COUNT];
            let (tokens, _) = tile.tokens.as_chunks::<TOKEN_LANES>();
            let (weights, _) = tile.weights.as_chunks::<PANEL_LANES>();
            for (tokens, weights) in tokens.iter().zip(weights) {
                // SAFETY: 16 lanes from 0 and from 16 on lie in the 32 of a unit.
                let row = unsafe {
                    [
                        _mm512_loadu_si512(weights.as_ptr().cast()),
                        _mm512_loadu_si512(weights.as_ptr().add(16).cast()),
                    ]
                };
                for (sums, token) in sums.iter_mut().zip(tokens) {
                    let token = _mm512_set1_epi32(*token as i32);
                    sums[0] = $dot(sums[0], token, row[0]);
                    sums[1] = $dot(sums[1], token, row[1]);
                }
            }
            let mask = u32::MAX >> (PANEL_LANES - tile.lanes);
            for (index, sums) in sums.into_iter().enumerate() {
                for (half, sum) in sums.into_iter().enumerate() {
                    let mask = (mask >> (16 * half)) as u16;
                    // SAFETY: the mask lets through the lanes of the caller's room only; index < COUNT = count.
                    unsafe {
                        let target = out.data.wrapping_add(index * out.stride + 16 * half);
                        let sum = if tile.add {
                            $add(sum, $load(mask, target))
                        } else {
                            sum
                        };
                        $store(target, mask, sum);
                    }
                }
            }
        }
    };
}

kernel!(
    f32,
    f32_tile,
    f32,
    __m512,
    "avx512f",
    _mm512_setzero_ps,
    |sum, token, weight| _mm512_fmadd_ps(_mm512_castsi512_ps(token), _mm512_castsi512_ps(weight), sum),
    _mm512_maskz_loadu_ps,
    _mm512_add_ps,
    _mm512_mask_storeu_ps
);

kernel!(
    bf16,
    bf16_tile,
    f32,
    __m512,
    "avx512f,avx512bf16",
    _mm512_setzero_ps,
    |sum, token, weight| dot_bf16(sum, token, weight),
    _mm512_maskz_loadu_ps,
    _mm512_add_ps,
    _mm512_mask_storeu_ps
);

kernel!(
    i16,
    i16_tile,
    i32,
    __m512i,
    "avx512f,avx512bw",
    _mm512_setzero_si512,
    |sum, token, weight| _mm512_add_epi32(sum, _mm512_madd_epi16(token, weight)),
    _mm512_maskz_loadu_epi32,
    _mm512_add_epi32,
    _mm512_mask_storeu_epi32
);

kernel!(
    i8,
    i8_tile,
    i32,
    __m512i,
    "avx512f,avx512vnni",
    _mm512_setzero_si512,
    |sum, token, weight| _mm512_dpbusd_epi32(sum, weight, token),
    _mm512_maskz_loadu_epi32,
    _mm512_add_epi32,
    _mm512_mask_storeu_epi32
);
