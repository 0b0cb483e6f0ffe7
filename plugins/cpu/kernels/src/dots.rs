//! Products of few tokens with rows of weights as they lie in memory: each weight is read once and nothing is packed.

use crate::{InstructionSet, Operand, Sum, matrix::Block};

/// Tokens that [`dots`] takes at most.
pub const DOT_TOKENS: usize = 4;

/// Whether [`dots`] has a kernel for the operand.
pub fn can_dot(set: InstructionSet, operand: Operand) -> bool {
    match operand {
        Operand::F32 => set >= InstructionSet::Avx512,
        Operand::Bf16 | Operand::I8 => set >= InstructionSet::Avx512Dot,
        Operand::I16 => false,
    }
}

/// `out = tokens · weightsᵀ` for rows of `row_bytes` bytes of the operand's elements. Signed bytes of both factors are
/// multiplied as what they are; the sums are exact.
///
/// # Panics
/// When [`can_dot`] says no, the sum is not the operand's, the processor lacks `set`, or the shapes do not fit.
pub fn dots<T: Sum>(
    set: InstructionSet,
    operand: Operand,
    tokens: &[u8],
    weights: &[u8],
    row_bytes: usize,
    out: &mut Block<'_, T>,
) {
    assert!(
        can_dot(set, operand)
            && set.is_available()
            && T::IS_INTEGER == (operand == Operand::I8)
            && out.rows() <= DOT_TOKENS
            && tokens.len() == out.rows() * row_bytes
            && weights.len() == out.cols() * row_bytes,
        "{} bytes of {} tokens and {} bytes of {} weight rows, {row_bytes} bytes each, as {operand:?} with {set}",
        tokens.len(),
        out.rows(),
        weights.len(),
        out.cols()
    );
    #[cfg(target_arch = "x86_64")]
    if out.rows() > 0 && out.cols() > 0 {
        let (data, stride) = out.corner(0, 0);
        let factors = avx512::Factors {
            tokens,
            weights,
            row_bytes,
            rows: out.cols(),
        };
        // SAFETY: the instructions are there and the shapes fit (asserted); `out` is borrowed exclusively, and `T` is the
        // type of the operand's sums (asserted), of which there are two.
        unsafe {
            match operand {
                Operand::F32 => avx512::f32(factors, out.rows(), data.cast(), stride),
                Operand::Bf16 => avx512::bf16(factors, out.rows(), data.cast(), stride),
                Operand::I8 | Operand::I16 => avx512::i8(factors, out.rows(), data.cast(), stride),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::{
        arch::x86_64::{
            __m512, __m512i, __mmask64, _MM_HINT_T1, _mm_prefetch, _mm512_castsi512_ps, _mm512_dpbusd_epi32,
            _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi8, _mm512_reduce_add_epi32,
            _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
            _mm512_sub_epi32, _mm512_xor_si512,
        },
        ops::Range,
    };

    use super::DOT_TOKENS;
    use crate::x86::dot_bf16;

    /// Weight rows that are read at once: that many streams of memory, and as many independent sums. They lie far apart,
    /// as processors follow one stream in a page.
    const ROWS: usize = 4;

    /// Bytes between what is multiplied and what is fetched: processors stop fetching ahead at the end of a page.
    const AHEAD: usize = 4 << 10;

    /// Rows of both factors.
    #[derive(Clone, Copy)]
    pub(super) struct Factors<'a> {
        pub(super) tokens: &'a [u8],
        pub(super) weights: &'a [u8],
        pub(super) row_bytes: usize,
        pub(super) rows: usize,
    }

    macro_rules! kernel {
        ($name:ident, $block:ident, $step:ident, $sum:ty, $vector:ty, $features:literal, $zero:ident, $start:expr, $dot:expr, $reduce:expr) => {
            /// # Safety
            /// The processor has the features; `out` has room for `tokens` rows of `factors.rows` sums.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(factors: Factors<'_>, tokens: usize, out: *mut $sum, stride: usize) {
                let apart = factors.rows / ROWS;
                // SAFETY: the caller's, handed on; the rows are there.
                unsafe {
                    match tokens {
                        1 => {
                            $block::<1, ROWS>(factors, 0..apart, apart, out, stride);
                            $block::<1, 1>(factors, ROWS * apart..factors.rows, 0, out, stride);
                        }
                        2 => {
                            $block::<2, ROWS>(factors, 0..apart, apart, out, stride);
                            $block::<2, 1>(factors, ROWS * apart..factors.rows, 0, out, stride);
                        }
                        3 => {
                            $block::<3, ROWS>(factors, 0..apart, apart, out, stride);
                            $block::<3, 1>(factors, ROWS * apart..factors.rows, 0, out, stride);
                        }
                        _ => {
                            $block::<DOT_TOKENS, ROWS>(factors, 0..apart, apart, out, stride);
                            $block::<DOT_TOKENS, 1>(factors, ROWS * apart..factors.rows, 0, out, stride);
                        }
                    }
                }
            }

            /// The sums of the rows `firsts`, and of the others of each, `apart` rows from one to the next.
            #[target_feature(enable = $features)]
            unsafe fn $block<const TOKENS: usize, const COUNT: usize>(
                factors: Factors<'_>,
                firsts: Range<usize>,
                apart: usize,
                out: *mut $sum,
                stride: usize,
            ) {
                let row_bytes = factors.row_bytes;
                let whole = row_bytes / 64 * 64;
                let mut starts = [$zero(); TOKENS];
                for (start, token) in starts
                    .iter_mut()
                    .zip(factors.tokens.chunks_exact(row_bytes.max(1)))
                {
                    *start = $start(token);
                }
                let tokens = factors.tokens.as_ptr();
                for first in firsts {
                    let mut sums: [[$vector; TOKENS]; COUNT] = [starts; COUNT];
                    let last = first + (COUNT - 1) * apart;
                    let weights = factors.weights[first * row_bytes..(last + 1) * row_bytes].as_ptr();
                    let rows = std::array::from_fn(|row| weights.wrapping_add(row * apart * row_bytes));
                    // SAFETY: the rows and the tokens are there.
                    unsafe {
                        for at in (0..whole).step_by(64) {
                            $step::<TOKENS, COUNT>(rows, tokens, row_bytes, at, !0, &mut sums);
                        }
                        if whole < row_bytes {
                            let mask = (1 << (row_bytes - whole)) - 1;
                            $step::<TOKENS, COUNT>(rows, tokens, row_bytes, whole, mask, &mut sums);
                        }
                    }
                    for (row, sums) in sums.into_iter().enumerate() {
                        for (token, sum) in sums.into_iter().enumerate() {
                            // SAFETY: the caller's room.
                            unsafe { *out.add(token * stride + first + row * apart) = $reduce(sum) };
                        }
                    }
                }
            }

            /// Adds 64 bytes of the rows from `at` on, or those that the mask lets through.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn $step<const TOKENS: usize, const COUNT: usize>(
                rows: [*const u8; COUNT],
                tokens: *const u8,
                row_bytes: usize,
                at: usize,
                mask: __mmask64,
                sums: &mut [[$vector; TOKENS]; COUNT],
            ) {
                // SAFETY: the caller's bytes.
                let load = |row: *const u8| unsafe { load(row.add(at), mask) };
                let mut x = [_mm512_setzero_si512(); TOKENS];
                for (token, x) in x.iter_mut().enumerate() {
                    *x = load(tokens.wrapping_add(token * row_bytes));
                }
                for (row, sums) in rows.into_iter().zip(sums) {
                    _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(at + AHEAD).cast());
                    let weight = load(row);
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = $dot(*sum, x, weight);
                    }
                }
            }
        };
    }

    kernel!(
        f32,
        f32_block,
        f32_step,
        f32,
        __m512,
        "avx512f,avx512bw",
        _mm512_setzero_ps,
        |_| _mm512_setzero_ps(),
        |sum, x, weight| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(weight), sum),
        |sum| _mm512_reduce_add_ps(sum)
    );

    kernel!(
        bf16,
        bf16_block,
        bf16_step,
        f32,
        __m512,
        "avx512f,avx512bw,avx512bf16",
        _mm512_setzero_ps,
        |_| _mm512_setzero_ps(),
        |sum, x, weight| dot_bf16(sum, x, weight),
        |sum| _mm512_reduce_add_ps(sum)
    );

    // The weight as an unsigned byte is 128 too large, so a sum starts at minus 128 times the token's codes. Masked bytes of
    // the token are zero.
    kernel!(
        i8,
        i8_block,
        i8_step,
        i32,
        __m512i,
        "avx512f,avx512bw,avx512vnni",
        _mm512_setzero_si512,
        |token| excess(token),
        |sum, x, weight| {
            _mm512_dpbusd_epi32(sum, _mm512_xor_si512(weight, _mm512_set1_epi32(UNSIGNED)), x)
        },
        |sum| _mm512_reduce_add_epi32(sum)
    );

    /// Four bytes of 128.
    const UNSIGNED: i32 = 0x8080_8080_u32 as i32;

    /// Minus 128 times a token's codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn excess(token: &[u8]) -> __m512i {
        let mut sum = _mm512_setzero_si512();
        for codes in token.chunks(64) {
            let mask = if codes.len() == 64 {
                !0
            } else {
                (1 << codes.len()) - 1
            };
            // SAFETY: the mask lets through the codes that are there.
            let codes = unsafe { load(codes.as_ptr(), mask) };
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(UNSIGNED), codes);
        }
        _mm512_sub_epi32(_mm512_setzero_si512(), sum)
    }

    /// # Safety
    /// The processor has the features; the bytes that the mask lets through are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const u8, mask: __mmask64) -> __m512i {
        if mask == !0 {
            // SAFETY: all 64 bytes are there.
            unsafe { _mm512_loadu_si512(from.cast()) }
        } else {
            // SAFETY: the caller's.
            unsafe { _mm512_maskz_loadu_epi8(mask, from.cast()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Block;

    fn sets() -> impl Iterator<Item = InstructionSet> {
        InstructionSet::ALL.into_iter().filter(|set| set.is_available())
    }

    #[test]
    fn floats_are_summed() {
        for (tokens, rows, cols) in [(1, 1, 1), (2, 5, 33), (3, 7, 96), (4, 10, 200), (1, 9, 768)] {
            let value = |i: usize, step: usize| ((i * step % 61) as f32 - 30.0) / 8.0;
            let x: Vec<f32> = (0..tokens * cols).map(|i| value(i, 17)).collect();
            let w: Vec<f32> = (0..rows * cols).map(|i| value(i, 23)).collect();
            for set in sets() {
                for operand in [Operand::F32, Operand::Bf16] {
                    if !can_dot(set, operand) {
                        continue;
                    }
                    let bytes = |values: &[f32]| -> Vec<u8> {
                        let each = values.iter().map(|value| value.to_le_bytes());
                        match operand {
                            Operand::Bf16 => each.flat_map(|bytes| [bytes[2], bytes[3]]).collect(),
                            _ => each.flatten().collect(),
                        }
                    };
                    let mut out = vec![f32::NAN; tokens * rows];
                    let mut block = Block::new(&mut out, tokens, rows);
                    dots(
                        set,
                        operand,
                        &bytes(&x),
                        &bytes(&w),
                        cols * operand.size(),
                        &mut block,
                    );
                    for (index, value) in out.iter().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        let sum: f32 = (0..cols).map(|k| x[token * cols + k] * w[row * cols + k]).sum();
                        // Eighths times eighths, below 2^24 sixty-fourths: exact in any order.
                        assert_eq!(
                            *value, sum,
                            "{set} {operand:?} {tokens}x{rows}x{cols} at {token},{row}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn codes_are_summed_exactly() {
        for (tokens, rows, cols) in [(1, 1, 1), (2, 5, 63), (4, 10, 200), (3, 3, 1000)] {
            let code = |i: usize, step: usize| (i * step % 256) as u8;
            let x: Vec<u8> = (0..tokens * cols).map(|i| code(i, 17)).collect();
            let w: Vec<u8> = (0..rows * cols).map(|i| code(i, 23)).collect();
            for set in sets().filter(|set| can_dot(*set, Operand::I8)) {
                let mut out = vec![0_i32; tokens * rows];
                dots(
                    set,
                    Operand::I8,
                    &x,
                    &w,
                    cols,
                    &mut Block::new(&mut out, tokens, rows),
                );
                for (index, value) in out.iter().enumerate() {
                    let (token, row) = (index / rows, index % rows);
                    let sum: i32 = (0..cols)
                        .map(|k| i32::from(x[token * cols + k] as i8) * i32::from(w[row * cols + k] as i8))
                        .sum();
                    assert_eq!(*value, sum, "{tokens}x{rows}x{cols} at {token},{row}");
                }
            }
        }
    }
}
