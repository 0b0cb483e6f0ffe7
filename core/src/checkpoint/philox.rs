//! Philox4x32-10: random numbers that depend on a counter and a key alone, so that any part of a stream can be drawn
//! at any time, by any thread.
//!
//! J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and sqrt(3) - 1, as fractions of 2^32.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Four random words for `counter`.
pub(super) fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let products = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        counter = [
            (products[1] >> 32) as u32 ^ counter[1] ^ key[0],
            products[1] as u32,
            (products[0] >> 32) as u32 ^ counter[3] ^ key[1],
            products[0] as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Four standard normal values for `counter`, by the method of Box and Muller.
///
/// Uniform values have 24 bits, so no value lies beyond sqrt(-2 ln 2^-24) = 5.77 standard deviations.
pub(super) fn normal4(counter: [u32; 4], key: [u32; 2]) -> [f32; 4] {
    const STEP: f32 = 1.0 / 16_777_216.0;
    let words = philox4x32(counter, key);
    let pair = |a: u32, b: u32| {
        // (0, 1] for the logarithm, [0, 1) turns for the angle.
        let radius = (-2.0 * (((a >> 8) + 1) as f32 * STEP).ln()).sqrt();
        let (sine, cosine) = ((b >> 8) as f32 * STEP * std::f32::consts::TAU).sin_cos();
        (radius * cosine, radius * sine)
    };
    let ((a, b), (c, d)) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors of Random123 (tests/kat_vectors, `philox4x32 10`).
    #[test]
    fn the_published_vectors_come_out() {
        let vectors = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in vectors {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn the_moments_are_those_of_the_normal_distribution() {
        // With n = 400 000 values the standard errors of the first four moments are 1, sqrt 2, sqrt 15 and sqrt 96
        // times 1 / sqrt n; the fixed stream is held to four of them.
        let n = 400_000_u32;
        let mut sums = [0.0_f64; 4];
        for block in 0..n / 4 {
            for value in normal4([block, 0, 1, 2], [3, 4]) {
                for (power, sum) in sums.iter_mut().enumerate() {
                    *sum += f64::from(value).powi(power as i32 + 1);
                }
            }
        }
        for ((sum, expected), deviation) in sums
            .iter()
            .zip([0.0, 1.0, 0.0, 3.0])
            .zip([1.0_f64, 2.0, 15.0, 96.0])
        {
            let error = (sum / f64::from(n) - expected).abs();
            assert!(
                error < 4.0 * (deviation / f64::from(n)).sqrt(),
                "moment off by {error}"
            );
        }
    }
}
