//! `qbench.scaled-fp8/1`: e4m3 weights and activations. The sdk's [`fp8`](qbench_sdk::layout::fp8) is the reference; this
//! gives the same bits, in parallel.
//!
//! Sums run in f64, where they are exact in any order.

use qbench_sdk::{
    Result, StoredTensor,
    layout::fp8::{E4M3, quantize_row},
};
use rayon::prelude::*;

use crate::parallel;

use super::{
    floats,
    product::{TILE, tasks},
};
use qbench_cpu_kernels::matrix::{Block, Onto, SharedMatrix, View, multiply};

/// A weight whose codes stay as they are stored.
pub(super) struct Fp8Weight {
    tensor: Box<dyn StoredTensor>,
    cols: usize,
    scales: Vec<f32>,
}

impl Fp8Weight {
    pub(super) fn new(tensor: Box<dyn StoredTensor>) -> Self {
        Self {
            cols: tensor.layout().cols(),
            scales: floats(tensor.buffer(1)),
            tensor,
        }
    }

    pub(super) fn tensor(&self) -> &dyn StoredTensor {
        self.tensor.as_ref()
    }

    /// `out = x · Wᵀ`; `finish` gets each piece of an output row with the number of its first weight row.
    pub(super) fn product(
        &self,
        x: &[f32],
        out: &mut [f32],
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) -> Result<()> {
        let (tokens, rows, cols) = (x.len() / self.cols, self.scales.len(), self.cols);
        let (activations, token_scales) = quantize(x, cols);
        let out = SharedMatrix::new(out, tokens, rows);
        let codes = self.tensor.buffer(0);
        let tasks = tasks(tokens, rows);
        parallel::for_each_init(tasks.len(), Scratch::default, |scratch, task| {
            let (rows, tokens) = tasks[task].clone();
            widen(&codes[rows.start * cols..rows.end * cols], &mut scratch.panel);
            scratch.sums.resize(tokens.len() * rows.len(), 0.0);
            let mut sums = Block::new(&mut scratch.sums, tokens.len(), rows.len());
            let x = View::new(&activations[tokens.start * cols..], tokens.len(), cols, cols);
            let weights = View::new(&scratch.panel, rows.len(), cols, cols);
            multiply(x, weights.transposed(), 1.0, Onto::Overwrite, &mut sums);
            // SAFETY: two tasks differ in their weight rows or in their tokens, so their blocks share no element.
            let mut block = unsafe { out.block(tokens.clone(), rows.clone()) };
            for (index, token_scale) in token_scales[tokens].iter().enumerate() {
                let values = block.row(index);
                for ((value, sum), scale) in values
                    .iter_mut()
                    .zip(sums.row(index))
                    .zip(&self.scales[rows.clone()])
                {
                    *value = *sum as f32 * (token_scale * scale);
                }
                finish(values, rows.start);
            }
            Ok(())
        })
    }
}

/// Memory of one task, used again by the next.
#[derive(Default)]
struct Scratch {
    panel: Vec<f64>,
    sums: Vec<f64>,
}

/// The numbers that codes stand for.
fn widen(codes: &[u8], values: &mut Vec<f64>) {
    values.clear();
    values.extend(codes.iter().map(|code| f64::from(E4M3[usize::from(*code)])));
}

/// The values of a call's activations in e4m3, and the scale of each token.
fn quantize(x: &[f32], cols: usize) -> (Vec<f64>, Vec<f32>) {
    let mut values = vec![0.0; x.len()];
    let mut scales = vec![0.0; x.len() / cols];
    values
        .par_chunks_mut(cols)
        .zip(x.par_chunks(cols))
        .zip(&mut scales)
        .with_min_len(TILE / 16)
        .for_each_init(
            || vec![0; cols],
            |codes, ((values, x), scale)| {
                *scale = quantize_row(x, codes);
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = f64::from(E4M3[usize::from(*code)]);
                }
            },
        );
    (values, scales)
}
