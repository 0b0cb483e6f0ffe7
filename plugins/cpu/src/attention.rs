//! Attention, a block of queries at a time: no more than `[BLOCK, keys]` scores exist on a thread.

use qbench_architectures::AttentionShape;
use qbench_cpu_kernels::matrix::{Block, Onto, SharedMatrix, View, multiply};
use qbench_sdk::DType;
use rayon::prelude::*;

use crate::elementwise::{round, softmax};

/// Queries a task: many for the matrix product, few for the keys that causality hides from the first of them.
const BLOCK: usize = 64;

/// All that the queries of one sequence can see.
pub(crate) struct Sequence<'a> {
    /// Keys of all positions, cached ones first: `[positions, kv_heads · head_dim]`.
    pub(crate) keys: &'a [f32],
    /// Values, likewise.
    pub(crate) values: &'a [f32],
    /// 1 for a token, 0 for padding; `[positions]`.
    pub(crate) mask: &'a [u8],
}

/// Attention of `q`, `[sequences · length, heads · head_dim]`, whose positions follow `past` others.
///
/// Probabilities are rounded to the precision before they meet the values, as the input of a product.
pub(crate) fn attention(
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
    let blocks = length.div_ceil(BLOCK);
    let tasks = sequences.len() * shape.heads * blocks;
    (0..tasks)
        .into_par_iter()
        .for_each_init(Vec::new, |scores, task| {
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
                scores,
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

#[expect(clippy::too_many_arguments, reason = "one task's inputs, scratch and output")]
fn attend<'a>(
    q: View<'_>,
    queries: std::ops::Range<usize>,
    sequence: &Sequence<'a>,
    kv_head: usize,
    shape: &AttentionShape,
    precision: DType,
    scores: &mut Vec<f32>,
    out: &mut Block<'_>,
) {
    let positions = sequence.mask.len();
    let from = visible(queries.start, positions, shape).start;
    let to = visible(queries.end - 1, positions, shape).end;
    let (count, keys) = (queries.len(), to - from);
    let stride = shape.kv_heads * shape.head_dim;
    let offset = from * stride + kv_head * shape.head_dim;
    let view = |data: &'a [f32]| View::new(&data[offset..], keys, shape.head_dim, stride);
    scores.resize(count * keys, 0.0);
    let scores = &mut scores[..count * keys];

    multiply(
        q,
        view(sequence.keys).transposed(),
        shape.scale,
        Onto::Overwrite,
        &mut Block::new(scores, count, keys),
    );
    let mask = &sequence.mask[from..to];
    let padded = mask.contains(&0);
    for (query, row) in queries.zip(scores.chunks_exact_mut(keys)) {
        let seen = visible(query, positions, shape);
        let (before, row) = row.split_at_mut(seen.start - from);
        let (row, after) = row.split_at_mut(seen.len());
        before.fill(0.0);
        after.fill(0.0);
        if padded {
            for (score, token) in row.iter_mut().zip(&mask[before.len()..]) {
                if *token == 0 {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        softmax(row);
    }
    round(scores, precision);
    multiply(
        View::new(scores, count, keys, keys),
        view(sequence.values),
        1.0,
        Onto::Overwrite,
        out,
    );
    for row in 0..count {
        round(out.row(row), precision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::{Random, assert_close};

    /// The definition, in f64, one query and one key at a time.
    fn naive(
        q: &[f32],
        sequences: &[Sequence<'_>],
        length: usize,
        past: usize,
        shape: &AttentionShape,
    ) -> Vec<f64> {
        let (dim, width, stride) = (
            shape.head_dim,
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
        );
        let mut out = vec![0.0; sequences.len() * length * width];
        for (s, sequence) in sequences.iter().enumerate() {
            for i in 0..length {
                for head in 0..shape.heads {
                    let at = (s * length + i) * width + head * dim;
                    let kv = head * shape.kv_heads / shape.heads * dim;
                    let weights: Vec<f64> = (0..sequence.mask.len())
                        .map(|j| {
                            let hidden = sequence.mask[j] == 0
                                || (shape.causal && j > past + i)
                                || shape.window.is_some_and(|window| j + window <= past + i);
                            let dot: f64 = (0..dim)
                                .map(|d| f64::from(q[at + d]) * f64::from(sequence.keys[j * stride + kv + d]))
                                .sum();
                            if hidden {
                                0.0
                            } else {
                                (dot * f64::from(shape.scale)).exp()
                            }
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for d in 0..dim {
                        let mixed: f64 = weights
                            .iter()
                            .enumerate()
                            .map(|(j, weight)| weight * f64::from(sequence.values[j * stride + kv + d]))
                            .sum();
                        out[at + d] = if sum > 0.0 { mixed / sum } else { 0.0 };
                    }
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_its_definition() {
        // f32 sums of a few hundred terms of size 1: far below this, and a wrong mask far above.
        const TOLERANCE: f64 = 2e-5;
        let mut random = Random::new(7);
        for (heads, kv_heads, head_dim, length, past, causal, window) in [
            (3, 1, 256, 70, 0, true, None),
            (4, 2, 128, 65, 0, true, Some(16)),
            (6, 2, 64, 130, 0, true, None),
            (2, 2, 6, 5, 40, true, None),
            (2, 1, 10, 1, 90, true, Some(7)),
            (2, 1, 8, 70, 0, false, None),
        ] {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                causal,
                window,
            };
            let positions = past + length;
            let q = random.normal(3 * length * heads * head_dim, 1.0);
            let keys = random.normal(3 * positions * kv_heads * head_dim, 1.0);
            let values = random.normal(3 * positions * kv_heads * head_dim, 1.0);
            // Not padded, padded on the right, padded on the left.
            let mut mask = vec![1; 3 * positions];
            mask[2 * positions - positions / 3..2 * positions].fill(0);
            mask[2 * positions..2 * positions + positions / 3].fill(0);
            let each = positions * kv_heads * head_dim;
            let sequences: Vec<Sequence<'_>> = (0..3)
                .map(|s| Sequence {
                    keys: &keys[s * each..(s + 1) * each],
                    values: &values[s * each..(s + 1) * each],
                    mask: &mask[s * positions..(s + 1) * positions],
                })
                .collect();
            let mut out = vec![f32::NAN; q.len()];
            attention(&q, &sequences, length, past, &shape, DType::F32, &mut out);
            assert_close(
                &out,
                &naive(&q, &sequences, length, past, &shape),
                TOLERANCE,
                &format!("{shape:?}"),
            );
        }
    }
}
