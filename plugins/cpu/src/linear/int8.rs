//! `qbench.int8-vectorwise/1`: LLM.int8(). The sdk's [`int8`](qbench_sdk::layout::int8) is the reference; this does
//! the same in parallel.
//!
//! The integer product runs in f32: a sum of up to 1040 products of two codes stays below 2^24, where f32 is exact in
//! any order. Longer rows are cut, and the pieces are added as integers.

use multiversion::multiversion;
use qbench_sdk::{
    DType, StoredTensor,
    layout::int8::{PRODUCT_STEP, round_to_f16},
};
use rayon::prelude::*;

use super::{
    floats,
    panels::{TILE, tasks},
};
use crate::{
    elementwise::round,
    matrix::{Block, Onto, SharedMatrix, View, multiply},
};

/// Columns whose products of codes f32 adds exactly: 1024 · 127² < 2^24.
const EXACT_COLS: usize = 1024;

/// f32(1 / 127): with a row's scale, turns a code into a weight.
const WEIGHT_STEP: f32 = 1.0 / 127.0;

/// Tokens that a task of quantisation takes.
const QUANTIZE_ROWS: usize = 64;

/// A weight whose codes stay as they are stored.
pub(super) struct Int8Weight {
    tensor: Box<dyn StoredTensor>,
    cols: usize,
    scales: Vec<f32>,
    threshold: f32,
    precision: DType,
}

/// The activations of one call; codes are whole numbers held as f32.
struct Activations {
    codes: Vec<f32>,
    scales: Vec<f32>,
    /// Columns that hold an outlier, ascending.
    columns: Vec<usize>,
    /// Those columns of the input, unrounded: `[tokens, columns]`.
    outliers: Vec<f32>,
}

impl Int8Weight {
    pub(super) fn new(tensor: Box<dyn StoredTensor>, precision: DType) -> Self {
        Self {
            cols: tensor.layout().cols(),
            scales: floats(tensor.buffer(1)),
            threshold: floats(tensor.buffer(2))[0],
            tensor,
            precision,
        }
    }

    pub(super) fn tensor(&self) -> &dyn StoredTensor {
        self.tensor.as_ref()
    }

    /// `out = x · Wᵀ + bias`. Without outliers a value is rounded
    /// once, with outliers once before and once after their part is added, as in the reference.
    pub(super) fn product(&self, x: &[f32], out: &mut [f32], rounding: DType, bias: Option<&[f32]>) {
        let tokens = x.len() / self.cols;
        let rows = self.scales.len();
        let activations = quantize(x, self.cols, self.threshold);
        let out = SharedMatrix::new(out, tokens, rows);
        let codes = self.tensor.buffer(0);
        tasks(tokens, rows)
            .into_par_iter()
            .for_each_init(Scratch::default, |scratch, (rows, tokens)| {
                // SAFETY: two tasks differ in their weight rows or in their tokens, so their blocks share no element.
                let mut block = unsafe { out.block(tokens.clone(), rows.clone()) };
                let codes = &codes[rows.start * self.cols..rows.end * self.cols];
                let scales = &self.scales[rows.clone()];
                self.sums(&activations, tokens.clone(), codes, scratch);
                for (index, token) in tokens.clone().enumerate() {
                    let values = block.row(index);
                    let sums = &scratch.sums[index * rows.len()..][..rows.len()];
                    scale_sums(values, sums, activations.scales[token], scales);
                    if let Some(bias) = bias {
                        for (value, bias) in values.iter_mut().zip(&bias[rows.clone()]) {
                            *value += bias;
                        }
                    }
                    round(values, rounding);
                }
                if !activations.columns.is_empty() {
                    self.add_outliers(&activations, tokens.clone(), codes, scales, scratch, &mut block);
                    for index in 0..tokens.len() {
                        round(block.row(index), rounding);
                    }
                }
            });
    }

    /// Exact sums of products of codes, `[tokens, rows]`, into `scratch.sums`.
    fn sums(
        &self,
        activations: &Activations,
        tokens: std::ops::Range<usize>,
        codes: &[u8],
        scratch: &mut Scratch,
    ) {
        let rows = codes.len() / self.cols;
        let count = tokens.len() * rows;
        scratch.panel.resize(codes.len(), 0.0);
        widen_codes(codes, &mut scratch.panel);
        scratch.product.resize(count, 0.0);
        scratch.sums.clear();
        scratch.sums.resize(count, 0);
        for start in (0..self.cols).step_by(EXACT_COLS) {
            let width = EXACT_COLS.min(self.cols - start);
            let x = View::new(
                &activations.codes[tokens.start * self.cols + start..],
                tokens.len(),
                width,
                self.cols,
            );
            let weights = View::new(&scratch.panel[start..], rows, width, self.cols);
            let mut product = Block::new(&mut scratch.product, tokens.len(), rows);
            multiply(x, weights.transposed(), 1.0, Onto::Overwrite, &mut product);
            add_whole(&mut scratch.sums, &scratch.product);
        }
    }

    /// Adds the outlier columns' part, in the input's type and with f32 sums.
    fn add_outliers(
        &self,
        activations: &Activations,
        tokens: std::ops::Range<usize>,
        codes: &[u8],
        scales: &[f32],
        scratch: &mut Scratch,
        out: &mut Block<'_>,
    ) {
        let width = activations.columns.len();
        scratch.panel.clear();
        for (codes, scale) in codes.chunks_exact(self.cols).zip(scales) {
            scratch.panel.extend(
                activations
                    .columns
                    .iter()
                    .map(|col| f32::from(codes[*col] as i8) * scale * WEIGHT_STEP),
            );
        }
        round(&mut scratch.panel, self.precision);
        let x = View::new(
            &activations.outliers[tokens.start * width..],
            tokens.len(),
            width,
            width,
        );
        let weights = View::new(&scratch.panel, scales.len(), width, width);
        multiply(x, weights.transposed(), 1.0, Onto::Add, out);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn widen_codes(codes: &[u8], values: &mut [f32]) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = f32::from(*code as i8);
    }
}

/// Adds whole numbers held as f32.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn add_whole(sums: &mut [i32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += *value as i32;
    }
}

/// The values that one token's sums stand for.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn scale_sums(values: &mut [f32], sums: &[i32], token_scale: f32, scales: &[f32]) {
    for ((value, sum), scale) in values.iter_mut().zip(sums).zip(scales) {
        *value = *sum as f32 * (token_scale * scale) * PRODUCT_STEP;
    }
}

/// Memory of one task, used again by the next.
#[derive(Default)]
struct Scratch {
    panel: Vec<f32>,
    product: Vec<f32>,
    sums: Vec<i32>,
}

/// Quantises a call's activations, all sequences together.
fn quantize(x: &[f32], cols: usize, threshold: f32) -> Activations {
    let tokens = x.len() / cols;
    let mut codes = vec![0.0; x.len()];
    let mut scales = vec![0.0; tokens];
    let has_outlier = codes
        .par_chunks_mut(QUANTIZE_ROWS * cols)
        .zip(x.par_chunks(QUANTIZE_ROWS * cols))
        .zip(scales.par_chunks_mut(QUANTIZE_ROWS))
        .map(|((codes, x), scales)| {
            let mut has_outlier = vec![false; cols];
            for ((codes, x), scale) in codes.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(scales) {
                codes.copy_from_slice(x);
                round_to_f16(codes);
                if threshold > 0.0 {
                    hide_outliers(codes, threshold, &mut has_outlier);
                }
                *scale = quantize_row(codes);
            }
            has_outlier
        })
        .reduce(
            || vec![false; cols],
            |mut one, other| {
                for (one, other) in one.iter_mut().zip(other) {
                    *one |= other;
                }
                one
            },
        );
    let columns: Vec<usize> = (0..cols).filter(|col| has_outlier[*col]).collect();
    let mut outliers = vec![0.0; tokens * columns.len()];
    if !columns.is_empty() {
        codes
            .par_chunks_mut(cols)
            .zip(x.par_chunks(cols))
            .zip(outliers.par_chunks_mut(columns.len()))
            .with_min_len(TILE)
            .for_each(|((codes, x), outliers)| {
                for (outlier, &col) in outliers.iter_mut().zip(&columns) {
                    *outlier = x[col];
                    codes[col] = 0.0;
                }
            });
    }
    Activations {
        codes,
        scales,
        columns,
        outliers,
    }
}

/// Turns a row of f16 values into their codes and gives the row's scale, as
/// [`int8::quantize_row`](qbench_sdk::layout::int8::quantize_row) does.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn quantize_row(values: &mut [f32]) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, even at ties.
    const ROUNDER: f32 = 12_582_912.0;
    // Magnitudes are ordered as their bits are, with NaN above infinity: a NaN anywhere becomes the scale.
    let bits = values.iter().fold(0, |max, value| max.max(value.abs().to_bits()));
    let scale = f32::from_bits(bits);
    let factor = (1.0 / scale) * 127.0;
    for value in values {
        let code = (*value * factor + ROUNDER) - ROUNDER;
        *value = if code.is_nan() { 0.0 } else { code };
    }
    scale
}

/// Zeroes the outliers of a row and notes their columns.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn hide_outliers(values: &mut [f32], threshold: f32, has_outlier: &mut [bool]) {
    for (value, has_outlier) in values.iter_mut().zip(has_outlier) {
        let outlier = value.abs() >= threshold;
        *has_outlier |= outlier;
        *value = if outlier { 0.0 } else { *value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::Random;
    use qbench_sdk::layout::int8::quantize_activations;

    #[test]
    fn activations_are_the_references() {
        let mut random = Random::new(3);
        for (tokens, cols, spread) in [(1, 7, 4.0), (70, 33, 1.5), (200, 130, 2.0), (5, 64, 0.1)] {
            let x = random.normal(tokens * cols, spread);
            for threshold in [6.0, 0.0] {
                let mine = quantize(&x, cols, threshold);
                let reference = quantize_activations(&x, tokens, cols, threshold).unwrap();
                let codes: Vec<f32> = reference.codes.iter().map(|code| f32::from(*code)).collect();
                assert_eq!(mine.codes, codes);
                assert_eq!(mine.scales, reference.scales);
                assert_eq!(mine.columns, reference.outlier_columns);
            }
        }
    }
}
