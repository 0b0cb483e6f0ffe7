//! A product with a weight that yields a panel of rows at a time.

use std::ops::Range;

use qbench_sdk::Result;
use rayon::prelude::*;

use crate::matrix::{Block, Onto, SharedMatrix, View, multiply};

/// Weight rows a task: a panel of a few thousand columns stays in the second-level cache.
pub(super) const PANEL: usize = 128;

/// Weight rows a task when there are few tokens: more tasks, as each is short.
const NARROW_PANEL: usize = 32;

/// Up to this many tokens the panels are narrow.
const FEW_TOKENS: usize = 32;

/// Tokens a task: enough to make little of decoding the panel once more.
pub(super) const TILE: usize = 1024;

/// A weight whose rows can be had as f32 values.
pub(super) trait Panels: Sync {
    /// The rows `rows`, one after the other; `scratch` is free to be used for them.
    fn panel<'a>(&'a self, rows: Range<usize>, scratch: &'a mut Vec<f32>) -> Result<&'a [f32]>;
}

/// The cut of a product into tasks, by its shape alone.
pub(super) fn tasks(tokens: usize, rows: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let panel = if tokens <= FEW_TOKENS { NARROW_PANEL } else { PANEL };
    let ranges = |length: usize, step: usize| {
        (0..length)
            .step_by(step)
            .map(move |start| start..(start + step).min(length))
    };
    ranges(rows, panel)
        .flat_map(|rows| ranges(tokens, TILE).map(move |tokens| (rows.clone(), tokens)))
        .collect()
}

/// `out = x · Wᵀ`; `finish` gets each piece of an output row with the number of its first weight row.
pub(super) fn product(
    x: &[f32],
    weight: &impl Panels,
    (rows, cols): (usize, usize),
    out: &mut [f32],
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> Result<()> {
    let tokens = x.len() / cols;
    let out = SharedMatrix::new(out, tokens, rows);
    tasks(tokens, rows)
        .into_par_iter()
        .try_for_each_init(Vec::new, |scratch, (rows, tokens)| {
            let panel = weight.panel(rows.clone(), scratch)?;
            // SAFETY: two tasks differ in their weight rows or in their tokens, so their blocks share no element.
            let mut block = unsafe { out.block(tokens.clone(), rows.clone()) };
            multiply_panel(x, tokens.clone(), panel, cols, Onto::Overwrite, &mut block);
            for token in 0..tokens.len() {
                finish(block.row(token), rows.start);
            }
            Ok(())
        })
}

/// The product of some tokens with a panel of weight rows.
pub(super) fn multiply_panel(
    x: &[f32],
    tokens: Range<usize>,
    panel: &[f32],
    cols: usize,
    onto: Onto,
    out: &mut Block<'_>,
) {
    let x = View::new(&x[tokens.start * cols..], tokens.len(), cols, cols);
    let weights = View::new(panel, panel.len() / cols, cols, cols);
    multiply(x, weights.transposed(), 1.0, onto, out);
}
