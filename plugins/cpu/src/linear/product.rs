//! Products of tokens with a weight that yields its rows, cut into tasks.

use std::ops::Range;

use qbench_cpu_kernels::{
    self as kernels, InstructionSet, Interleaved, Operand,
    matrix::{self, Block, Onto, SharedMatrix, View},
};
use qbench_sdk::{DType, Result};
use rayon::prelude::*;

use super::rows::{Rows, Scratch, encode};
use crate::{kernels::Kernels, parallel};

/// Weight rows a task of the reference: a panel of a few thousand columns stays in the second-level cache.
const PANEL: usize = 128;

/// Weight rows a task when there are few tokens: more tasks, as each is short.
const NARROW_PANEL: usize = 32;

/// Up to this many tokens the panels are narrow.
const FEW_TOKENS: usize = 32;

/// Tokens a task: enough to make little of decoding the panel once more.
pub(super) const TILE: usize = 1024;

/// Bytes of an interleaved panel, so that it stays in the second-level cache beside the tokens that pass by.
const PANEL_BYTES: usize = 512 << 10;

/// Bytes of weights that a task of few tokens reads, or up to twice as many: memory is read fastest in long stretches.
const DOT_BYTES: usize = 256 << 10;

/// Tasks a thread, so that threads end at about the same time.
const TASKS_A_THREAD: usize = 4;

/// The ranges of `step` that make up `length`.
pub(super) fn ranges(length: usize, step: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..length)
        .step_by(step)
        .map(move |start| start..(start + step).min(length))
}

/// The cut of a product of the reference into tasks, by its shape alone.
pub(super) fn tasks(tokens: usize, rows: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let panel = if tokens <= FEW_TOKENS { NARROW_PANEL } else { PANEL };
    ranges(rows, panel)
        .flat_map(|rows| ranges(tokens, TILE).map(move |tokens| (rows.clone(), tokens)))
        .collect()
}

/// The cut of a product by tiles. Sums do not depend on it, so it may depend on the number of threads.
pub(super) fn tile_tasks(tokens: usize, rows: usize, units: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let fitting = PANEL_BYTES / (4 * units.max(1)) / kernels::PANEL_LANES * kernels::PANEL_LANES;
    let mut panel = fitting.clamp(kernels::PANEL_LANES, PANEL);
    let mut tile = TILE / kernels::TOKEN_LANES * kernels::TOKEN_LANES;
    let wanted = TASKS_A_THREAD * rayon::current_num_threads();
    let count = |panel: usize, tile: usize| rows.div_ceil(panel) * tokens.div_ceil(tile);
    // Narrower panels cost more passes over the tokens, shorter tiles more packing of panels.
    while count(panel, tile) < wanted && panel > kernels::PANEL_LANES {
        panel = (panel / 2).next_multiple_of(kernels::PANEL_LANES);
    }
    while count(panel, tile) < wanted && tile > 8 * kernels::TOKEN_LANES {
        tile = (tile / 2).next_multiple_of(kernels::TOKEN_LANES);
    }
    ranges(rows, panel)
        .flat_map(|rows| ranges(tokens, tile).map(move |tokens| (rows.clone(), tokens)))
        .collect()
}

/// Weight rows that a task of few tokens takes: tasks of one length, as many for each thread.
pub(super) fn rows_of_few_tokens(rows: usize, row_bytes: usize) -> usize {
    let threads = rayon::current_num_threads();
    let tasks_a_thread = (rows * row_bytes / (threads * DOT_BYTES)).max(1);
    // A matrix without rows has no task, but a step must not be 0.
    rows.div_ceil(threads * tasks_a_thread).max(1).next_multiple_of(4)
}

/// What values of the precision are multiplied as.
pub(crate) fn operand(set: InstructionSet, precision: DType) -> Operand {
    match precision {
        DType::BF16 => Operand::for_bf16(set),
        _ => Operand::F32,
    }
}

/// `out = x · Wᵀ` for values `x` of the precision; `finish` gets each piece of an output row with the number of its
/// first weight row.
pub(super) fn product(
    kernels: Kernels,
    precision: DType,
    x: &[f32],
    weight: &impl Rows,
    (rows, cols): (usize, usize),
    out: &mut [f32],
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> Result<()> {
    let tokens = x.len() / cols;
    let out = SharedMatrix::new(out, tokens, rows);
    match kernels {
        Kernels::Reference => reference(x, weight, cols, &out, &tasks(tokens, rows), finish),
        Kernels::Own(set) => {
            let operand = operand(set, precision);
            if tokens <= kernels::DOT_TOKENS && kernels::can_dot(set, operand) {
                few_tokens(set, operand, x, weight, (rows, cols), &out, finish)
            } else {
                tiles(set, operand, x, weight, (rows, cols), &out, finish)
            }
        }
    }
}

fn reference(
    x: &[f32],
    weight: &impl Rows,
    cols: usize,
    out: &SharedMatrix<'_, f32>,
    tasks: &[(Range<usize>, Range<usize>)],
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> Result<()> {
    parallel::for_each_init(
        tasks.len(),
        <(Scratch, Vec<f32>)>::default,
        |(scratch, copy), task| {
            let (rows, tokens) = tasks[task].clone();
            let bytes = weight.rows(rows.clone(), Operand::F32, scratch)?;
            // A file's values may lie off a boundary; those are copied.
            let panel = match bytemuck::try_cast_slice(bytes) {
                Ok(panel) if cfg!(target_endian = "little") => panel,
                _ => {
                    copy.clear();
                    copy.extend(
                        bytes
                            .as_chunks::<4>()
                            .0
                            .iter()
                            .map(|word| f32::from_le_bytes(*word)),
                    );
                    copy.as_slice()
                }
            };
            // SAFETY: two tasks differ in their weight rows or in their tokens, so their blocks share no element.
            let mut block = unsafe { out.block(tokens.clone(), rows.clone()) };
            let x = View::new(&x[tokens.start * cols..], tokens.len(), cols, cols);
            let weights = View::new(panel, rows.len(), cols, cols);
            matrix::multiply(x, weights.transposed(), 1.0, Onto::Overwrite, &mut block);
            for token in 0..tokens.len() {
                finish(block.row(token), rows.start);
            }
            Ok(())
        },
    )
}

fn tiles(
    set: InstructionSet,
    operand: Operand,
    x: &[f32],
    weight: &impl Rows,
    (rows, cols): (usize, usize),
    out: &SharedMatrix<'_, f32>,
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> Result<()> {
    let tokens = interleave(set, operand, x, cols);
    let tasks = tile_tasks(tokens.rows(), rows, operand.units(cols));
    parallel::for_each_init(
        tasks.len(),
        || (Scratch::new(), Interleaved::panel(operand)),
        |(scratch, panel), task| {
            let (rows, range) = tasks[task].clone();
            pack(set, weight, rows.clone(), cols, 0, scratch, panel)?;
            // SAFETY: two tasks differ in their weight rows or in their tokens, so their blocks share no element.
            let mut block = unsafe { out.block(range.clone(), rows.clone()) };
            kernels::multiply(set, &tokens, range.clone(), &*panel, &mut block);
            for token in 0..range.len() {
                finish(block.row(token), rows.start);
            }
            Ok(())
        },
    )
}

/// Interleaves weight rows, a group at a time.
pub(super) fn pack(
    set: InstructionSet,
    weight: &impl Rows,
    rows: Range<usize>,
    cols: usize,
    flip: u32,
    scratch: &mut Scratch,
    panel: &mut Interleaved,
) -> Result<()> {
    let operand = panel.operand();
    panel.resize(rows.len(), cols);
    for (first, group) in panel.groups_mut() {
        let start = rows.start + first;
        let end = (start + kernels::PANEL_LANES).min(rows.end);
        let bytes = weight.rows(start..end, operand, scratch)?;
        kernels::fill(
            set,
            group,
            kernels::PANEL_LANES,
            bytes,
            cols * operand.size(),
            flip,
        );
    }
    Ok(())
}

/// All tokens, interleaved.
fn interleave(set: InstructionSet, operand: Operand, x: &[f32], cols: usize) -> Interleaved {
    let mut tokens = Interleaved::tokens(operand);
    tokens.resize(x.len() / cols, cols);
    let groups: Vec<_> = tokens.groups_mut().collect();
    groups
        .into_par_iter()
        .for_each_init(Scratch::new, |scratch, (first, group)| {
            let end = ((first + kernels::TOKEN_LANES) * cols).min(x.len());
            let bytes = encode(operand, &x[first * cols..end], scratch);
            kernels::fill(set, group, kernels::TOKEN_LANES, bytes, cols * operand.size(), 0);
        });
    tokens
}

/// A token or a few: every weight is read once, where it lies.
fn few_tokens(
    set: InstructionSet,
    operand: Operand,
    x: &[f32],
    weight: &impl Rows,
    (rows, cols): (usize, usize),
    out: &SharedMatrix<'_, f32>,
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> Result<()> {
    let tokens = x.len() / cols;
    let mut scratch = Scratch::new();
    let encoded = encode(operand, x, &mut scratch);
    let row_bytes = cols * operand.size();
    let step = rows_of_few_tokens(rows, row_bytes);
    parallel::for_each_init(rows.div_ceil(step), Scratch::new, |scratch, task| {
        let rows = task * step..((task + 1) * step).min(rows);
        let bytes = weight.rows(rows.clone(), operand, scratch)?;
        // SAFETY: tasks differ in their weight rows, so their blocks share no element.
        let mut block: Block<'_, f32> = unsafe { out.block(0..tokens, rows.clone()) };
        kernels::dots(set, operand, encoded, bytes, row_bytes, &mut block);
        for token in 0..tokens {
            finish(block.row(token), rows.start);
        }
        Ok(())
    })
}
