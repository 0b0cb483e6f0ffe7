//! Rounding, norms, activations, rotary embeddings: whatever touches each value a few times.

use multiversion::multiversion;
use qbench_sdk::{DType, layout::int8::round_to_f16};
use rayon::prelude::*;

/// Values that a task takes at least, so that starting it costs little beside its work.
const TASK_VALUES: usize = 1 << 14;

/// Lanes of a sum: fixed, so that the order of its terms is the same on every machine.
const LANES: usize = 16;

/// Rounds values to the precision, nearest even.
pub(crate) fn round(values: &mut [f32], precision: DType) {
    match precision {
        DType::BF16 => round_to_bf16(values),
        DType::F16 => round_to_f16(values),
        DType::F32 | DType::I8 | DType::U8 => {}
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn round_to_bf16(values: &mut [f32]) {
    for value in values {
        let bits = value.to_bits();
        // Half a unit less one, plus one for an odd neighbour: what lies halfway goes to the even one.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
        // A NaN stays one, whatever its payload.
        let quiet = (bits & 0xffff_0000) | 0x0040_0000;
        *value = f32::from_bits(if value.is_nan() { quiet } else { rounded });
    }
}

/// `e^x` to 2 units in the last place, in a form that compilers vectorise; 0 below the smallest normal number, where
/// the true value is no longer one, and infinity nowhere: arguments above 88 count as 88.
///
/// Range reduction by Cody and Waite and the polynomial of Moshier's Cephes `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.0;
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer.
    const ROUNDER: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, not `clamp`: a NaN must stay one.
    let clamped = if x > HIGHEST { HIGHEST } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // The low bits of `shifted` are those of the integer `n`, which lies in -126 ..= 127, or the result is thrown away.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { p * power }
}

/// Turns a row of scores into probabilities, in place, each score times the positive `scale`. A row without a score above
/// minus infinity becomes zeros.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(crate) fn softmax(scores: &mut [f32], scale: f32) {
    for score in &mut *scores {
        *score *= scale;
    }
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    let max = maxima.iter().chain(tail).fold(
        f32::NEG_INFINITY,
        |max, score| if *score > max { *score } else { max },
    );
    // All hidden; a row of NaN alone must stay NaN.
    if max == f32::NEG_INFINITY && !scores.iter().any(|score| score.is_nan()) {
        scores.fill(0.0);
        return;
    }
    for score in &mut *scores {
        *score = exp(*score - max);
    }
    let mut sums = [0.0; LANES];
    let (chunks, tail) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *sum += score;
        }
    }
    let sum = sums.iter().sum::<f32>() + tail.iter().sum::<f32>();
    let factor = 1.0 / sum;
    for score in scores {
        *score *= factor;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn square_sum(values: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    sums.iter().sum::<f32>() + tail.iter().map(|value| value * value).sum::<f32>()
}

/// Root mean square norm of each row, times `weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, precision: DType, out: &mut [f32]) {
    let width = weight.len();
    let rows = rows_a_task(width);
    out.par_chunks_mut(rows * width)
        .zip(x.par_chunks(rows * width))
        .for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let factor = 1.0 / (square_sum(x) / width as f32 + eps).sqrt();
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * factor * weight;
                }
                // While the row is in the first-level cache.
                round(out, precision);
            }
        });
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32], precision: DType) {
    x.par_chunks_mut(TASK_VALUES)
        .zip(y.par_chunks(TASK_VALUES))
        .for_each(|(x, y)| {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
            round(x, precision);
        });
}

/// `gate = silu(gate) · up`, with `silu(x) = x / (1 + e^-x)`.
pub fn silu_times(gate: &mut [f32], up: &[f32], precision: DType) {
    gate.par_chunks_mut(TASK_VALUES)
        .zip(up.par_chunks(TASK_VALUES))
        .for_each(|(gate, up)| {
            silu_times_values(gate, up);
            round(gate, precision);
        });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn silu_times_values(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// Turns the heads of each row by the angles of its position. `cos` and `sin` are `[length, head_dim / 2]`.
pub fn rope(x: &mut [f32], width: usize, length: usize, (cos, sin): (&[f32], &[f32]), precision: DType) {
    let half = cos.len() / length;
    let rows = rows_a_task(width);
    x.par_chunks_mut(rows * width).enumerate().for_each(|(task, x)| {
        for (index, row) in x.chunks_exact_mut(width).enumerate() {
            let position = (task * rows + index) % length;
            let cos = &cos[position * half..(position + 1) * half];
            let sin = &sin[position * half..(position + 1) * half];
            for head in row.chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
        round(x, precision);
    });
}

/// Rows of that many values that a task takes.
pub(crate) fn rows_a_task(width: usize) -> usize {
    (TASK_VALUES / width).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qbench_sdk::{narrow, widen};

    #[test]
    fn exponentials_are_those_of_f64() {
        // Two units in the last place: the polynomial's error and the rounding of its last steps.
        const TOLERANCE: f64 = 2.0 / 8_388_608.0;
        let mut worst = 0.0_f64;
        for step in 0..200_000 {
            let x = -87.3 + step as f32 * (175.0 / 200_000.0);
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
        }
        assert!(worst < TOLERANCE, "{worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan() && exp(1000.0).is_finite());
    }

    #[test]
    fn rounding_is_the_sdks() {
        for precision in [DType::BF16, DType::F16, DType::F32] {
            let values: Vec<f32> = (0..70_000_u32)
                .map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)))
                .chain([f32::INFINITY, f32::MAX, -0.0, 1.0 + 1.0 / 256.0])
                .filter(|value| !value.is_nan())
                .collect();
            let mut bytes = vec![0; values.len() * precision.size()];
            narrow(&values, precision, &mut bytes).unwrap();
            let mut expected = vec![0.0; values.len()];
            widen(&bytes, precision, &mut expected).unwrap();
            let mut rounded = values.clone();
            round(&mut rounded, precision);
            for (i, (a, b)) in rounded.iter().zip(&expected).enumerate() {
                assert_eq!(a.to_bits(), b.to_bits(), "{precision} of {:e}", values[i]);
            }
        }
        let mut nan = [f32::from_bits(0x7f80_0001)];
        round(&mut nan, DType::BF16);
        assert!(nan[0].is_nan());
    }

    #[test]
    fn softmax_of_known_rows() {
        // Halves and quarters: scores ln 2, 0, 0 beside hidden ones, in a row longer than a group of lanes.
        let mut scores = vec![f32::NEG_INFINITY; 37];
        scores[3] = std::f32::consts::LN_2;
        scores[18] = 0.0;
        scores[36] = 0.0;
        softmax(&mut scores, 1.0);
        for (i, value) in scores.iter().enumerate() {
            let expected = match i {
                3 => 0.5,
                18 | 36 => 0.25,
                _ => 0.0,
            };
            assert!((value - expected).abs() < 1e-7, "{i}: {value}");
        }
        let mut hidden = [f32::NEG_INFINITY; 3];
        softmax(&mut hidden, 1.0);
        assert_eq!(hidden, [0.0; 3]);
        let mut broken = [f32::NAN, 1.0];
        softmax(&mut broken, 1.0);
        assert!(broken.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn norm_activation_and_rotation_of_known_values() {
        // Mean square of (3, 4) is 12.5; with eps 0 the row becomes (3, 4) / sqrt(12.5).
        let mut out = [0.0; 2];
        rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0, DType::F32, &mut out);
        assert!((out[0] - 0.848_528_1).abs() < 1e-6 && (out[1] - 2.262_741_7).abs() < 1e-6);
        // silu(1) = 0.7310586, silu(-200) = -0.
        let mut gate = [1.0, -200.0];
        silu_times(&mut gate, &[2.0, 1.0], DType::F32);
        assert!((gate[0] - 1.462_117_2).abs() < 1e-6 && gate[1].abs() < 1e-30);
        // A quarter turn takes (a, b) to (-b, a); the second position of each sequence is not turned.
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        rope(&mut x, 2, 2, (&[0.0, 1.0], &[1.0, 0.0]), DType::F32);
        assert_eq!(x, [-2.0, 1.0, 3.0, 4.0, -6.0, 5.0, 7.0, 8.0]);
    }
}
