//! `qbench.int8-vectorwise/1`: LLM.int8(). The sdk's [`int8`](qbench_sdk::layout::int8) is the reference; this does
//! the same in parallel.
//!
//! Sums of products of codes are whole numbers and exact in any order: bytes or pairs of i16 summed in i32, or, in the
//! reference, f32, where a sum of up to 1040 products of two codes stays below 2^24. Longer rows are cut there, and the
//! pieces are added as integers.

use std::ops::Range;

use multiversion::multiversion;
use qbench_cpu_kernels::{
    self as kernels, InstructionSet, Interleaved, Operand,
    matrix::{Block, Onto, SharedMatrix, View, multiply},
};
use qbench_sdk::{
    DType, Result, StoredTensor,
    layout::int8::{PRODUCT_STEP, round_to_f16},
};
use rayon::prelude::*;

use super::{
    floats,
    product::{self, TILE, pack, tasks},
    rows::{Rows, Scratch, elements},
};
use crate::{elementwise::round, kernels::Kernels, parallel};

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

/// The activations of one call.
struct Activations {
    /// `[tokens, cols]`
    codes: Vec<i8>,
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
    pub(super) fn product(
        &self,
        kernels: Kernels,
        x: &[f32],
        out: &mut [f32],
        rounding: DType,
        bias: Option<&[f32]>,
    ) -> Result<()> {
        let tokens = x.len() / self.cols;
        let rows = self.scales.len();
        let activations = quantize(x, self.cols, self.threshold);
        let out = SharedMatrix::new(out, tokens, rows);
        let factor = Factor::new(kernels, &activations, self.cols);
        let tasks = match (&factor, kernels) {
            (Factor::Tiles(_), Kernels::Own(set)) => {
                product::tile_tasks(tokens, rows, Operand::for_i8(set).units(self.cols))
            }
            (Factor::Dots(..), _) => product::ranges(rows, product::rows_of_few_tokens(rows, self.cols))
                .map(|rows| (rows, 0..tokens))
                .collect(),
            _ => tasks(tokens, rows),
        };
        parallel::for_each_init(tasks.len(), Memory::default, |memory, task| {
            let (rows, tokens) = tasks[task].clone();
            // SAFETY: two tasks differ in their weight rows or in their tokens, so their blocks share no element.
            let mut block = unsafe { out.block(tokens.clone(), rows.clone()) };
            let scales = &self.scales[rows.clone()];
            factor.sums(self, tokens.clone(), rows.clone(), memory)?;
            for (index, token) in tokens.clone().enumerate() {
                let values = block.row(index);
                let sums = &memory.sums[index * rows.len()..][..rows.len()];
                let excess = factor.excess(token);
                scale_sums(values, sums, excess, activations.scales[token], scales);
                if let Some(bias) = bias {
                    for (value, bias) in values.iter_mut().zip(&bias[rows.clone()]) {
                        *value += bias;
                    }
                }
                round(values, rounding);
            }
            if !activations.columns.is_empty() {
                let codes = &self.tensor.buffer(0)[rows.start * self.cols..rows.end * self.cols];
                self.add_outliers(&activations, tokens.clone(), codes, scales, memory, &mut block);
                for index in 0..tokens.len() {
                    round(block.row(index), rounding);
                }
            }
            Ok(())
        })
    }

    /// Adds the outlier columns' part, in the input's type and with f32 sums.
    fn add_outliers(
        &self,
        activations: &Activations,
        tokens: Range<usize>,
        codes: &[u8],
        scales: &[f32],
        memory: &mut Memory,
        out: &mut Block<'_>,
    ) {
        let width = activations.columns.len();
        memory.panel.clear();
        for (codes, scale) in codes.chunks_exact(self.cols).zip(scales) {
            memory.panel.extend(
                activations
                    .columns
                    .iter()
                    .map(|col| f32::from(codes[*col] as i8) * scale * WEIGHT_STEP),
            );
        }
        round(&mut memory.panel, self.precision);
        let x = View::new(
            &activations.outliers[tokens.start * width..],
            tokens.len(),
            width,
            width,
        );
        let weights = View::new(&memory.panel, scales.len(), width, width);
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

/// The values that one token's sums stand for, after `excess` is taken off.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn scale_sums(values: &mut [f32], sums: &[i32], excess: i32, token_scale: f32, scales: &[f32]) {
    for ((value, sum), scale) in values.iter_mut().zip(sums).zip(scales) {
        *value = (*sum - excess) as f32 * (token_scale * scale) * PRODUCT_STEP;
    }
}

/// Memory of one task, used again by the next.
#[derive(Default)]
struct Memory {
    panel: Vec<f32>,
    product: Vec<f32>,
    sums: Vec<i32>,
    rows: Scratch,
    interleaved: Option<Interleaved>,
}

impl Rows for Int8Weight {
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        operand: Operand,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8]> {
        let codes = &self.tensor.buffer(0)[rows.start * self.cols..rows.end * self.cols];
        if operand == Operand::I8 {
            return Ok(codes);
        }
        let values: &mut [i16] = elements(scratch, codes.len());
        widen_to_i16(codes, values);
        Ok(bytemuck::cast_slice(values))
    }
}

/// The tokens' codes as the kernels take them.
enum Factor<'a> {
    /// The reference: whole numbers held as f32.
    Reference(Vec<f32>),
    /// Few tokens, as they are.
    Dots(InstructionSet, &'a [i8]),
    Tiles(Tiles),
}

struct Tiles {
    set: InstructionSet,
    tokens: Interleaved,
    /// By how much each token's sums are too large.
    excess: Vec<i32>,
}

impl<'a> Factor<'a> {
    fn new(kernels: Kernels, activations: &'a Activations, cols: usize) -> Self {
        let codes = &activations.codes;
        match kernels {
            Kernels::Reference => Self::Reference(codes.iter().map(|code| f32::from(*code)).collect()),
            Kernels::Own(set)
                if activations.scales.len() <= kernels::DOT_TOKENS
                    && kernels::can_dot(set, Operand::for_i8(set)) =>
            {
                Self::Dots(set, codes)
            }
            Kernels::Own(set) => Self::Tiles(Tiles::new(set, codes, cols)),
        }
    }

    /// By how much the sums of a token are too large.
    fn excess(&self, token: usize) -> i32 {
        match self {
            Self::Tiles(tiles) => tiles.excess[token],
            Self::Reference(_) | Self::Dots(..) => 0,
        }
    }

    /// Exact sums of products of codes, `[tokens, rows]`, into `memory.sums`.
    fn sums(
        &self,
        weight: &Int8Weight,
        tokens: Range<usize>,
        rows: Range<usize>,
        memory: &mut Memory,
    ) -> Result<()> {
        let count = tokens.len() * rows.len();
        if memory.sums.len() < count {
            memory.sums.resize(count, 0);
        }
        let (tokens_count, rows_count) = (tokens.len(), rows.len());
        match self {
            Self::Reference(codes) => reference_sums(codes, weight, tokens, rows, memory),
            Self::Dots(set, codes) => {
                let cols = weight.cols;
                let mut sums = Block::new(&mut memory.sums[..count], tokens_count, rows_count);
                kernels::dots(
                    *set,
                    Operand::I8,
                    bytemuck::cast_slice(&codes[tokens.start * cols..tokens.end * cols]),
                    &weight.tensor.buffer(0)[rows.start * cols..rows.end * cols],
                    cols,
                    &mut sums,
                );
            }
            Self::Tiles(tiles) => {
                let operand = tiles.tokens.operand();
                let panel = memory
                    .interleaved
                    .get_or_insert_with(|| Interleaved::panel(operand));
                let flip = if operand == Operand::I8 { UNSIGNED } else { 0 };
                pack(
                    tiles.set,
                    weight,
                    rows,
                    weight.cols,
                    flip,
                    &mut memory.rows,
                    panel,
                )?;
                let mut sums = Block::new(&mut memory.sums[..count], tokens_count, rows_count);
                kernels::multiply(tiles.set, &tiles.tokens, tokens, &*panel, &mut sums);
            }
        }
        Ok(())
    }
}

impl Tiles {
    fn new(set: InstructionSet, codes: &[i8], cols: usize) -> Self {
        let operand = Operand::for_i8(set);
        let mut tokens = Interleaved::tokens(operand);
        tokens.resize(codes.len() / cols, cols);
        let groups: Vec<_> = tokens.groups_mut().collect();
        groups
            .into_par_iter()
            .for_each_init(Scratch::new, |scratch, (first, group)| {
                let end = ((first + kernels::TOKEN_LANES) * cols).min(codes.len());
                let codes: &[u8] = bytemuck::cast_slice(&codes[first * cols..end]);
                let bytes = if operand == Operand::I8 {
                    codes
                } else {
                    let values: &mut [i16] = elements(scratch, codes.len());
                    widen_to_i16(codes, values);
                    bytemuck::cast_slice(values)
                };
                kernels::fill(set, group, kernels::TOKEN_LANES, bytes, cols * operand.size(), 0);
            });
        let excess = if operand == Operand::I8 {
            codes
                .par_chunks(cols)
                .map(|codes| 128 * sum_codes(codes))
                .collect()
        } else {
            vec![0; codes.len() / cols]
        };
        Self { set, tokens, excess }
    }
}

/// Turns signed bytes into unsigned ones that are 128 larger.
const UNSIGNED: u32 = 0x8080_8080;

/// The reference's sums.
fn reference_sums(
    codes: &[f32],
    weight: &Int8Weight,
    tokens: Range<usize>,
    rows: Range<usize>,
    memory: &mut Memory,
) {
    let cols = weight.cols;
    let weights = &weight.tensor.buffer(0)[rows.start * cols..rows.end * cols];
    let count = tokens.len() * rows.len();
    memory.panel.resize(weights.len(), 0.0);
    widen_codes(weights, &mut memory.panel);
    memory.product.resize(count, 0.0);
    memory.sums[..count].fill(0);
    for start in (0..cols).step_by(EXACT_COLS) {
        let width = EXACT_COLS.min(cols - start);
        let x = View::new(&codes[tokens.start * cols + start..], tokens.len(), width, cols);
        let weights = View::new(&memory.panel[start..], rows.len(), width, cols);
        let mut product = Block::new(&mut memory.product, tokens.len(), rows.len());
        multiply(x, weights.transposed(), 1.0, Onto::Overwrite, &mut product);
        add_whole(&mut memory.sums, &memory.product);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn widen_to_i16(codes: &[u8], values: &mut [i16]) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = i16::from(*code as i8);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn sum_codes(codes: &[i8]) -> i32 {
    codes.iter().map(|code| i32::from(*code)).sum()
}

/// Quantises a call's activations, all sequences together.
fn quantize(x: &[f32], cols: usize, threshold: f32) -> Activations {
    let tokens = x.len() / cols;
    let mut codes = vec![0; x.len()];
    let mut scales = vec![0.0; tokens];
    let has_outlier = codes
        .par_chunks_mut(QUANTIZE_ROWS * cols)
        .zip(x.par_chunks(QUANTIZE_ROWS * cols))
        .zip(scales.par_chunks_mut(QUANTIZE_ROWS))
        .map(|((codes, x), scales)| {
            let mut has_outlier = vec![false; cols];
            let mut values = vec![0.0; cols];
            for ((codes, x), scale) in codes.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(scales) {
                values.copy_from_slice(x);
                round_to_f16(&mut values);
                if threshold > 0.0 {
                    hide_outliers(&mut values, threshold, &mut has_outlier);
                }
                *scale = quantize_row(&values, codes);
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
                    codes[col] = 0;
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

/// Writes the codes of a row of f16 values and gives the row's scale, as
/// [`int8::quantize_row`](qbench_sdk::layout::int8::quantize_row) does.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn quantize_row(values: &[f32], codes: &mut [i8]) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, even at ties.
    const ROUNDER: f32 = 12_582_912.0;
    // Magnitudes are ordered as their bits are, with NaN above infinity: a NaN anywhere becomes the scale.
    let bits = values.iter().fold(0, |max, value| max.max(value.abs().to_bits()));
    let scale = f32::from_bits(bits);
    let factor = (1.0 / scale) * 127.0;
    for (code, value) in codes.iter_mut().zip(values) {
        let rounded = (*value * factor + ROUNDER) - ROUNDER;
        // A NaN becomes 0; all others lie within ±127.
        *code = rounded as i8;
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
                assert_eq!(mine.codes, reference.codes);
                assert_eq!(mine.scales, reference.scales);
                assert_eq!(mine.columns, reference.outlier_columns);
            }
        }
    }
}
