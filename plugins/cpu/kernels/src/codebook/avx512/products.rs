//! Products of few tokens with blocks of 64 codes, or of that times a power of two.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm512_cvtne2ps_pbh, _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_load_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_mov_ps, _mm512_maskz_loadu_epi64, _mm512_mul_ps,
    _mm512_permutex2var_ps, _mm512_permutexvar_epi16, _mm512_permutexvar_ps, _mm512_set1_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi16,
    _mm512_srli_epi32, _mm512_ternarylogic_epi32,
};

use super::{
    super::{HALF, LONG_PARTS, Line, Run, SHORT_PARTS},
    AHEAD, table,
};
use crate::x86::{dot_bf16, totals};

/// Rows that are multiplied at once, so that a load of tokens serves several and few sums wait for each other. They lie far
/// apart, as processors follow one stream in a page.
const ROWS: usize = 4;

/// Products of consecutive rows with tokens.
#[derive(Clone, Copy)]
pub(in crate::codebook) struct Wide<'a> {
    /// Begins with the first row, on a boundary of [`HALF`] elements of its block.
    pub(in crate::codebook) run: Run<'a>,
    /// `[tokens][steps][parts]`; filled up with zeros.
    pub(in crate::codebook) tokens: &'a [Line],
    pub(in crate::codebook) cols: usize,
    pub(in crate::codebook) rows: usize,
}

macro_rules! products {
    ($dots:ident, $sums:ident, $add:ident, $features:literal) => {
        /// # Safety
        /// The processor has the features. The run begins with a byte, its block is [`HALF`] elements times a power of two,
        /// and `cols` a multiple of [`HALF`]; codes and scales suffice for all rows, `tokens` holds `TOKENS` tokens laid out
        /// for this product, and `out` has room for `TOKENS` rows of `rows` sums, `stride` apart.
        #[target_feature(enable = $features)]
        pub(in crate::codebook) unsafe fn $dots<const TOKENS: usize>(
            wide: Wide<'_>,
            out: *mut f32,
            stride: usize,
        ) {
            let apart = wide.rows / ROWS;
            for first in 0..apart {
                let rows: [usize; ROWS] = std::array::from_fn(|row| first + row * apart);
                // SAFETY: the caller's, handed on; the rows are there.
                let sums = unsafe { $sums::<TOKENS, ROWS>(&wide, rows) };
                for (token, sums) in sums.into_iter().enumerate() {
                    for (row, sum) in rows.into_iter().zip(totals(sums)) {
                        // SAFETY: the caller's room.
                        unsafe { *out.add(token * stride + row) = sum };
                    }
                }
            }
            // In the order of the others: a sum must not depend on where a task ends.
            let none = _mm512_setzero_ps();
            for row in ROWS * apart..wide.rows {
                // SAFETY: the caller's, handed on; the row is there.
                let sums = unsafe { $sums::<TOKENS, 1>(&wide, [row]) };
                for (token, [sum]) in sums.into_iter().enumerate() {
                    // SAFETY: the caller's room.
                    unsafe { *out.add(token * stride + row) = totals([sum, none, none, none])[0] };
                }
            }
        }

        /// The products of some rows, 16 partial sums for each token and row.
        ///
        /// # Safety
        /// The caller's, and the rows are there.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $sums<const TOKENS: usize, const COUNT: usize>(
            wide: &Wide<'_>,
            rows: [usize; COUNT],
        ) -> [[__m512; COUNT]; TOKENS] {
            let halves = wide.cols / HALF;
            let mut sums = [[_mm512_setzero_ps(); COUNT]; TOKENS];
            // SAFETY: the caller's, handed on; halves of the row.
            unsafe {
                for step in 0..halves / 2 {
                    $add::<TOKENS, COUNT, true>(wide, rows, step, &mut sums);
                }
                if halves % 2 == 1 {
                    $add::<TOKENS, COUNT, false>(wide, rows, halves / 2, &mut sums);
                }
            }
            sums
        }
    };
}

// Sums in bf16 products, which one instruction makes of 32 values and adds to 16 sums. Values of a block too small for a
// normal bf16 count as zero, as they do in that instruction.
products!(
    dots_in_bf16,
    sums_in_bf16,
    add_in_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
);
// Sums in f32 of values that stay as they are: a block's scale multiplies the sum of what its table gives, which spares a
// table for each block. A sum differs by a few roundings from that of the values.
products!(
    dots_of_scaled,
    sums_of_scaled,
    add_scaled,
    "avx512f,avx512bw,avx512dq,avx512vl"
);
// Sums in f32 of values that are rounded.
products!(
    dots_in_f32,
    sums_in_f32,
    add_in_f32,
    "avx512f,avx512bw,avx512dq,avx512vl"
);

impl Wide<'_> {
    /// A row's 128 codes of a step, or the 64 that are left and zeros; and the scales of both halves.
    ///
    /// # Safety
    /// The row has the halves of the step.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load<const WHOLE: bool>(&self, row: usize, step: usize) -> (__m512i, f32, f32) {
        let run = &self.run;
        let half = row * (self.cols / HALF) + 2 * step;
        let scale = |half: usize| {
            let index = (run.before / HALF + half) >> (run.block / HALF).trailing_zeros();
            // SAFETY: the block of an element of the rows has a scale.
            unsafe { *run.scales.get_unchecked(index) }
        };
        let codes = run.codes.as_ptr().wrapping_add(half * HALF / 2);
        _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(AHEAD).cast());
        if WHOLE {
            // SAFETY: the codes of both halves.
            let words = unsafe { _mm512_loadu_si512(codes.cast()) };
            (words, scale(half), scale(half + 1))
        } else {
            // SAFETY: the mask lets through the first half, the row's last.
            let words = unsafe { _mm512_maskz_loadu_epi64(0xf, codes.cast()) };
            (words, scale(half), 0.0)
        }
    }

    /// A part of a token's step.
    fn part<const PARTS: usize>(&self, token: usize, step: usize, part: usize) -> *const Line {
        let steps = self.cols.div_ceil(2 * HALF);
        self.tokens
            .as_ptr()
            .wrapping_add((token * steps + step) * PARTS + part)
    }
}

/// A step of 64 bytes as 32 words of four codes each: shifts alone bring every code to the low end of its word. The look-up
/// of 16 bits minds five bits of an index: the fifth chooses between the tables of the step's two halves.
///
/// # Safety
/// As [`dots_in_bf16`], and the rows have the halves of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn add_in_bf16<const TOKENS: usize, const COUNT: usize, const WHOLE: bool>(
    wide: &Wide<'_>,
    rows: [usize; COUNT],
    step: usize,
    sums: &mut [[__m512; COUNT]; TOKENS],
) {
    // SAFETY: 16 values.
    let codebook = unsafe { _mm512_loadu_ps(wide.run.codebook.as_ptr()) };
    let low = _mm512_set1_epi16(0xf);
    let second_half = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(0x10));
    let mut words = [_mm512_setzero_si512(); COUNT];
    let mut tables = [_mm512_setzero_si512(); COUNT];
    for ((words, tables), row) in words.iter_mut().zip(&mut tables).zip(rows) {
        // SAFETY: the caller's.
        let (codes, first, second) = unsafe { wide.load::<WHOLE>(row, step) };
        let table = |scale| _mm512_mul_ps(codebook, _mm512_set1_ps(scale));
        // SAFETY: both types are vectors of 512 bits, of any bit pattern.
        *tables = unsafe {
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(table(second), table(first)))
        };
        *words = codes;
    }
    for nibble in 0..SHORT_PARTS {
        // A byte's first code is in its upper half, or in its lower one.
        let part = nibble ^ usize::from(wide.run.high_first);
        for row in 0..COUNT {
            // (words & low) | second_half
            let index = _mm512_ternarylogic_epi32::<0xea>(words[row], low, second_half);
            let weights = _mm512_permutexvar_epi16(index, tables[row]);
            words[row] = _mm512_srli_epi16::<4>(words[row]);
            for (token, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a part of that token's step.
                let x = unsafe { _mm512_load_si512(wide.part::<SHORT_PARTS>(token, step, part).cast()) };
                sums[row] = dot_bf16(sums[row], x, weights);
            }
        }
    }
}

/// A step of 64 bytes as 16 words of eight codes each, which shifts bring to the low end of its word; the fifth bit of an
/// index chooses between the tables of the step's two halves.
///
/// # Safety
/// As [`dots_in_f32`], and the rows have the halves of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_in_f32<const TOKENS: usize, const COUNT: usize, const WHOLE: bool>(
    wide: &Wide<'_>,
    rows: [usize; COUNT],
    step: usize,
    sums: &mut [[__m512; COUNT]; TOKENS],
) {
    let rounding = wide.run.rounding;
    // SAFETY: 16 values.
    let codebook = unsafe { _mm512_loadu_ps(wide.run.codebook.as_ptr()) };
    let low = _mm512_set1_epi32(0xf);
    let second_half = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi32(0x10));
    let mut words = [_mm512_setzero_si512(); COUNT];
    let mut tables = [[_mm512_setzero_ps(); 2]; COUNT];
    for ((words, tables), row) in words.iter_mut().zip(&mut tables).zip(rows) {
        // SAFETY: the caller's.
        let (codes, first, second) = unsafe { wide.load::<WHOLE>(row, step) };
        *tables = [first, second].map(|scale| table(codebook, scale, rounding));
        *words = codes;
    }
    for nibble in 0..LONG_PARTS {
        // A byte's first code is in its upper half, or in its lower one.
        let part = nibble ^ usize::from(wide.run.high_first);
        for row in 0..COUNT {
            // (words & low) | second_half
            let index = _mm512_ternarylogic_epi32::<0xea>(words[row], low, second_half);
            let weights = _mm512_permutex2var_ps(tables[row][0], index, tables[row][1]);
            words[row] = _mm512_srli_epi32::<4>(words[row]);
            for (token, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a part of that token's step.
                let x = unsafe { _mm512_load_ps(wide.part::<LONG_PARTS>(token, step, part).cast()) };
                sums[row] = _mm512_fmadd_ps(x, weights, sums[row]);
            }
        }
    }
}

/// A step of 64 bytes as 16 words of eight codes each, which shifts bring to the low end of its word: a look-up in 16 values
/// minds no more of an index.
///
/// # Safety
/// As [`dots_of_scaled`], and the rows have the halves of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_scaled<const TOKENS: usize, const COUNT: usize, const WHOLE: bool>(
    wide: &Wide<'_>,
    rows: [usize; COUNT],
    step: usize,
    sums: &mut [[__m512; COUNT]; TOKENS],
) {
    // SAFETY: 16 values.
    let codebook = unsafe { _mm512_loadu_ps(wide.run.codebook.as_ptr()) };
    let mut words = [_mm512_setzero_si512(); COUNT];
    let mut scales = [_mm512_setzero_ps(); COUNT];
    for ((words, scales), row) in words.iter_mut().zip(&mut scales).zip(rows) {
        // SAFETY: the caller's.
        let (codes, first, second) = unsafe { wide.load::<WHOLE>(row, step) };
        *scales = _mm512_mask_mov_ps(_mm512_set1_ps(first), 0xff00, _mm512_set1_ps(second));
        *words = codes;
    }
    let mut of_step = [[_mm512_setzero_ps(); COUNT]; TOKENS];
    for nibble in 0..LONG_PARTS {
        // A byte's first code is in its upper half, or in its lower one.
        let part = nibble ^ usize::from(wide.run.high_first);
        for row in 0..COUNT {
            let weights = _mm512_permutexvar_ps(words[row], codebook);
            words[row] = _mm512_srli_epi32::<4>(words[row]);
            for (token, of_step) in of_step.iter_mut().enumerate() {
                // SAFETY: a part of that token's step.
                let x = unsafe { _mm512_load_ps(wide.part::<LONG_PARTS>(token, step, part).cast()) };
                of_step[row] = _mm512_fmadd_ps(x, weights, of_step[row]);
            }
        }
    }
    for (sums, of_step) in sums.iter_mut().zip(of_step) {
        for ((sum, of_step), scales) in sums.iter_mut().zip(of_step).zip(scales) {
            *sum = _mm512_fmadd_ps(of_step, scales, *sum);
        }
    }
}
