//! Tile kernels in plain loops, which the compiler vectorises with what every processor of the architecture has.

use super::{PANEL_LANES, Sums, TOKEN_LANES, Tile};

/// Tokens whose sums are held at once.
const STEP: usize = 2;

macro_rules! kernel {
    ($name:ident, $sum:ty, $add:expr) => {
        /// # Safety
        /// `sums` has room for the tile.
        pub(super) unsafe fn $name(tile: Tile<'_>, out: Sums<$sum>) {
            let add: fn($sum, u32, u32) -> $sum = $add;
            for first in (0..tile.count).step_by(STEP) {
                let mut sums = [[<$sum>::default(); PANEL_LANES]; STEP];
                let (tokens, _) = tile.tokens.as_chunks::<TOKEN_LANES>();
                let (weights, _) = tile.weights.as_chunks::<PANEL_LANES>();
                for (tokens, weights) in tokens.iter().zip(weights) {
                    for (sums, token) in sums.iter_mut().zip(&tokens[first..]) {
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = add(*sum, *token, *weight);
                        }
                    }
                }
                for (index, sums) in sums[..STEP.min(tile.count - first)].iter().enumerate() {
                    for (lane, sum) in sums[..tile.lanes].iter().enumerate() {
                        // SAFETY: token `first + index` < count and `lane` < lanes: within the caller's room.
                        let target = unsafe { &mut *out.data.add((first + index) * out.stride + lane) };
                        *target = if tile.add { *target + sum } else { *sum };
                    }
                }
            }
        }
    };
}

kernel!(f32, f32, |sum, token, weight| sum
    + f32::from_bits(token) * f32::from_bits(weight));

kernel!(i16, i32, |sum, token, weight| {
    let (low, high) = (
        i32::from(token as i16) * i32::from(weight as i16),
        i32::from((token >> 16) as i16) * i32::from((weight >> 16) as i16),
    );
    sum + low + high
});
