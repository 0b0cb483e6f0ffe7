//! Attention, a block of queries at a time: no more than `[BLOCK, keys]` scores exist on a thread.

mod few;
#[cfg(test)]
mod tests;
mod tiles;

use qbench_architectures::AttentionShape;
use qbench_cpu_kernels::matrix::{Block, Onto, SharedMatrix, View, multiply};
use qbench_sdk::DType;

use crate::{
    elementwise::{round, softmax},
    kernels::Kernels,
    parallel,
};

/// Queries a task: many for the matrix product, few for the keys that causality hides from the first of them.
const BLOCK: usize = 64;

/// From this many queries of a sequence on, interleaving its keys and values pays.
const MANY_QUERIES: usize = 24;

/// Up to this many queries of a sequence, the products are so small that preparing them costs more than they do.
const FEW_QUERIES: usize = 4;

/// All that the queries of one sequence can see.
pub struct Sequence<'a> {
    /// Keys of all positions, cached ones first: `[positions, kv_heads · head_dim]`.
    pub keys: &'a [f32],
    /// Values, likewise.
    pub values: &'a [f32],
    /// 1 for a token, 0 for padding; `[positions]`.
    pub mask: &'a [u8],
}

/// Attention of `q`, `[sequences · length, heads · head_dim]`, whose positions follow `past` others.
///
/// Probabilities are rounded to the precision before they meet the values, as the input of a product.
#[expect(clippy::too_many_arguments, reason = "one call's inputs and output")]
pub fn attention(
    kernels: Kernels,
    q: &[f32],
    sequences: &[Sequence<'_>],
    length: usize,
    past: usize,
    shape: &AttentionShape,
    precision: DType,
    out: &mut [f32],
) {
    let width = shape.heads * shape.head_dim;
    let out = SharedMatrix::new(out, sequences.len() * length, width);
    if let Kernels::Own(set) = kernels {
        if length >= MANY_QUERIES {
            return tiles::attention(set, q, sequences, length, past, shape, precision, &out);
        }
        if length <= FEW_QUERIES {
            return few::attention(set, q, sequences, length, past, shape, precision, &out);
        }
    }
    let blocks = length.div_ceil(BLOCK);
    let tasks = sequences.len() * shape.heads * blocks;
    parallel::for_each(tasks, |task| {
        let (block, rest) = (task % blocks, task / blocks);
        let (head, sequence) = (rest % shape.heads, rest / shape.heads);
        let first = block * BLOCK;
        let count = BLOCK.min(length - first);
        let row = sequence * length + first;
        let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
        let q = View::new(&q[row * width + columns.start..], count, shape.head_dim, width);
        // SAFETY: tasks differ in sequence, head, or block of queries, so their blocks share no element.
        let mut out = unsafe { out.block(row..row + count, columns) };
        let kv_head = head / (shape.heads / shape.kv_heads);
        let queries = past + first..past + first + count;
        attend(
            q,
            queries,
            &sequences[sequence],
            kv_head,
            shape,
            precision,
            &mut out,
        );
    });
}

/// The positions that a query sees, padding aside.
fn visible(query: usize, positions: usize, shape: &AttentionShape) -> std::ops::Range<usize> {
    let end = if shape.causal {
        (query + 1).min(positions)
    } else {
        positions
    };
    let start = shape
        .window
        .map_or(0, |window| (query + 1).saturating_sub(window));
    start.min(end)..end
}

fn attend<'a>(
    q: View<'_>,
    queries: std::ops::Range<usize>,
    sequence: &Sequence<'a>,
    kv_head: usize,
    shape: &AttentionShape,
    precision: DType,
    out: &mut Block<'_>,
) {
    let positions = sequence.mask.len();
    let from = visible(queries.start, positions, shape).start;
    let to = visible(queries.end - 1, positions, shape).end;
    let (count, keys) = (queries.len(), to - from);
    let stride = shape.kv_heads * shape.head_dim;
    let offset = from * stride + kv_head * shape.head_dim;
    let view = |data: &'a [f32]| View::new(&data[offset..], keys, shape.head_dim, stride);
    let mut scores = vec![0.0; count * keys];
    multiply(
        q,
        view(sequence.keys).transposed(),
        1.0,
        Onto::Overwrite,
        &mut Block::new(&mut scores, count, keys),
    );
    for (query, row) in queries.zip(scores.chunks_exact_mut(keys)) {
        probabilities(query, row, from, &sequence.mask[from..to], positions, shape);
    }
    round(&mut scores, precision);
    multiply(
        View::new(&scores, count, keys, keys),
        view(sequence.values),
        1.0,
        Onto::Overwrite,
        out,
    );
    for row in 0..count {
        round(out.row(row), precision);
    }
}

/// Turns a row of sums, of the positions from `from` on, into probabilities; what the query does not see gets 0.
fn probabilities(
    query: usize,
    row: &mut [f32],
    from: usize,
    mask: &[u8],
    positions: usize,
    shape: &AttentionShape,
) {
    let seen = visible(query, positions, shape);
    let (before, row) = row.split_at_mut(seen.start - from);
    let (row, after) = row.split_at_mut(seen.len());
    before.fill(0.0);
    after.fill(0.0);
    let mask = &mask[before.len()..before.len() + row.len()];
    if mask.contains(&0) {
        for (score, token) in row.iter_mut().zip(mask) {
            if *token == 0 {
                *score = f32::NEG_INFINITY;
            }
        }
    }
    softmax(row, shape.scale);
}
