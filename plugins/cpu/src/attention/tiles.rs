//! Attention of many queries by the tile kernels: keys and values of a head are interleaved once, for all its queries.
//!
//! Queries, keys, values and probabilities are values of the precision, so they are multiplied exactly as the weights of
//! that precision are.

use std::ops::Range;

use qbench_architectures::AttentionShape;
use qbench_cpu_kernels::{
    self as kernels, InstructionSet, Interleaved, Operand, PANEL_LANES, PanelPart, TOKEN_LANES,
    matrix::{Block, SharedMatrix},
};
use qbench_sdk::DType;
use rayon::prelude::*;

use super::{Sequence, probabilities, visible};
use crate::{
    elementwise::round,
    linear::{
        product::operand,
        rows::{Scratch, encode},
    },
};

/// Queries a task: whole groups of [`TOKEN_LANES`].
const BLOCK: usize = 5 * TOKEN_LANES;

/// Keys and values of one head of one sequence.
struct Head {
    /// A weight row for each position.
    keys: Interleaved,
    /// A weight row for each dimension.
    values: Interleaved,
}

/// What a task reuses from the one before it.
struct Workspace {
    encoded: Scratch,
    queries: Interleaved,
    scores: Vec<f32>,
    probabilities: Interleaved,
}

#[expect(clippy::too_many_arguments, reason = "one call's inputs and output")]
pub(super) fn attention(
    set: InstructionSet,
    q: &[f32],
    sequences: &[Sequence<'_>],
    length: usize,
    past: usize,
    shape: &AttentionShape,
    precision: DType,
    out: &SharedMatrix<'_, f32>,
) {
    let operand = operand(set, precision);
    let (dim, width) = (shape.head_dim, shape.heads * shape.head_dim);
    let heads: Vec<Head> = (0..sequences.len() * shape.kv_heads)
        .into_par_iter()
        .map(|index| {
            let sequence = &sequences[index / shape.kv_heads];
            let columns = index % shape.kv_heads * dim..(index % shape.kv_heads + 1) * dim;
            Head {
                keys: keys(set, operand, sequence, shape, columns.clone()),
                values: values(operand, sequence, shape, columns),
            }
        })
        .collect();
    let blocks = length.div_ceil(BLOCK);
    (0..sequences.len() * shape.heads * blocks)
        .into_par_iter()
        .for_each_init(
            || Workspace {
                encoded: Scratch::new(),
                queries: Interleaved::tokens(operand),
                scores: Vec::new(),
                probabilities: Interleaved::tokens(operand),
            },
            |workspace, task| {
                let (block, rest) = (task % blocks, task / blocks);
                let (head, sequence) = (rest % shape.heads, rest / shape.heads);
                let first = block * BLOCK;
                let count = BLOCK.min(length - first);
                let row = sequence * length + first;
                let columns = head * dim..(head + 1) * dim;
                let rows = (row..row + count).map(|row| &q[row * width..][columns.clone()]);
                interleave(set, rows, dim, &mut workspace.queries, &mut workspace.encoded);
                // SAFETY: tasks differ in sequence, head, or block of queries, so their blocks share no element.
                let mut out = unsafe { out.block(row..row + count, columns.clone()) };
                attend(
                    set,
                    past + first..past + first + count,
                    sequences[sequence].mask,
                    &heads[sequence * shape.kv_heads + head / (shape.heads / shape.kv_heads)],
                    shape,
                    precision,
                    workspace,
                    &mut out,
                );
            },
        );
}

#[expect(clippy::too_many_arguments, reason = "one task's inputs, scratch and output")]
fn attend(
    set: InstructionSet,
    queries: Range<usize>,
    mask: &[u8],
    head: &Head,
    shape: &AttentionShape,
    precision: DType,
    workspace: &mut Workspace,
    out: &mut Block<'_>,
) {
    let positions = mask.len();
    // Whole groups of the keys' panel: what the first of them holds too much is not seen by any query.
    let from = visible(queries.start, positions, shape).start / PANEL_LANES * PANEL_LANES;
    let to = visible(queries.end - 1, positions, shape).end;
    let (count, keys) = (queries.len(), to - from);
    let operand = head.keys.operand();
    workspace
        .scores
        .resize((BLOCK * positions).max(count * keys), 0.0);
    let scores = &mut workspace.scores[..count * keys];
    let part = PanelPart {
        rows: from..to,
        ..PanelPart::from(&head.keys)
    };
    let mut block = Block::new(scores, count, keys);
    kernels::multiply(set, &workspace.queries, 0..count, part, &mut block);
    for (query, row) in queries.zip(scores.chunks_exact_mut(keys)) {
        probabilities(query, row, from, &mask[from..to], positions, shape);
        round(row, precision);
    }
    interleave(
        set,
        scores.chunks_exact(keys),
        keys,
        &mut workspace.probabilities,
        &mut workspace.encoded,
    );
    let part = PanelPart {
        units: from / operand.per_unit()..operand.units(to),
        ..PanelPart::from(&head.values)
    };
    kernels::multiply(set, &workspace.probabilities, 0..count, part, out);
    for row in 0..count {
        round(out.row(row), precision);
    }
}

/// Rows of `cols` values as tokens.
fn interleave<'a>(
    set: InstructionSet,
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    cols: usize,
    tokens: &mut Interleaved,
    encoded: &mut Scratch,
) {
    let operand = tokens.operand();
    tokens.resize(rows.len(), cols);
    let mut rows = rows.peekable();
    let mut group = Vec::with_capacity(TOKEN_LANES * cols);
    for (_, units) in tokens.groups_mut() {
        group.clear();
        for row in rows.by_ref().take(TOKEN_LANES) {
            group.extend_from_slice(row);
        }
        let bytes = encode(operand, &group, encoded);
        kernels::fill(set, units, TOKEN_LANES, bytes, cols * operand.size(), 0);
    }
}

/// The keys of a head, whose dimensions are the columns `columns`.
fn keys(
    set: InstructionSet,
    operand: Operand,
    sequence: &Sequence<'_>,
    shape: &AttentionShape,
    columns: Range<usize>,
) -> Interleaved {
    let (stride, cols) = (shape.kv_heads * shape.head_dim, columns.len());
    let mut panel = Interleaved::panel(operand);
    panel.resize(sequence.mask.len(), cols);
    let (mut encoded, mut group) = (Scratch::new(), Vec::new());
    for (first, units) in panel.groups_mut() {
        group.clear();
        for row in sequence.keys.chunks_exact(stride).skip(first).take(PANEL_LANES) {
            group.extend_from_slice(&row[columns.clone()]);
        }
        let bytes = encode(operand, &group, &mut encoded);
        kernels::fill(set, units, PANEL_LANES, bytes, cols * operand.size(), 0);
    }
    panel
}

/// The values of a head, transposed: the values of one position lie beside each other already, as the lanes of a unit do.
fn values(
    operand: Operand,
    sequence: &Sequence<'_>,
    shape: &AttentionShape,
    columns: Range<usize>,
) -> Interleaved {
    let stride = shape.kv_heads * shape.head_dim;
    let mut panel = Interleaved::panel(operand);
    panel.resize(columns.len(), sequence.mask.len());
    for (first, units) in panel.groups_mut() {
        let end = (first + PANEL_LANES).min(columns.len());
        let columns = columns.start + first..columns.start + end;
        let positions = sequence.values.chunks(operand.per_unit() * stride);
        for (unit, positions) in units.chunks_exact_mut(PANEL_LANES).zip(positions) {
            // Lanes past the last dimension, of a panel made just now, are zero already.
            let (low, high) = positions.split_at(stride);
            let high = high.get(columns.clone());
            for (lane, (unit, low)) in unit.iter_mut().zip(&low[columns.clone()]).enumerate() {
                *unit = match operand {
                    // Exact: the values are bf16 numbers.
                    Operand::Bf16 => {
                        low.to_bits() >> 16 | high.map_or(0, |high| high[lane].to_bits() & 0xffff_0000)
                    }
                    Operand::F32 | Operand::I16 | Operand::I8 => low.to_bits(),
                };
            }
        }
    }
    panel
}
