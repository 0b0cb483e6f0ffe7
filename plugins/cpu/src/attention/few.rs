//! Attention of a query or a few, which is bound by memory: keys and values are read once, in order, where they lie.
//!
//! Threads share the positions, as all heads of some positions are a long piece of memory, and each head's are not. How
//! positions are divided, and so how sums are ordered, depends on their number alone.

use std::ops::Range;

use qbench_architectures::AttentionShape;
use qbench_cpu_kernels::{
    InstructionSet,
    attention::{add_weighted, scores},
    matrix::{SharedMatrix, View},
};
use qbench_sdk::DType;

use super::{Sequence, probabilities, visible};
use crate::{
    elementwise::{round, rows_a_task},
    parallel,
};

/// Positions whose heads are taken one after the other, while the next ones are fetched into the second-level cache.
const BLOCK: usize = 16;

/// Positions a task at least, so that starting it costs little beside its work.
const TASK_POSITIONS: usize = 4 * BLOCK;

/// Tasks a sequence at most: each leaves sums of its own.
const TASKS: usize = 32;

/// [`attention`](super::attention) for few queries a sequence.
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
    let (dim, heads, positions) = (shape.head_dim, shape.heads, past + length);
    let seen = visible(past, positions, shape).start..visible(positions - 1, positions, shape).end;
    let cache = Cache::new(shape, length, seen.clone());
    // A row of scores, then of weights, for each head of each query.
    let (rows, keys, group) = (sequences.len() * length * heads, seen.len(), cache.group());
    let mut weights = vec![0.0; rows * keys];
    let shared = SharedMatrix::new(&mut weights, rows, keys);
    parallel::for_each(sequences.len() * cache.tasks(), |task| {
        let (sequence, task) = (task / cache.tasks(), task % cache.tasks());
        cache.for_each_part(task, sequences[sequence].keys, |row, keys, part| {
            let row = sequence * length * heads + row;
            let queries = View::new(&q[row * dim..], group, dim, dim);
            // SAFETY: tasks differ in sequence or positions, so their blocks share no element.
            let mut out = unsafe { shared.block(row..row + group, keys) };
            scores(set, queries, part, &mut out);
        });
    });
    for_each_row(rows, keys, |row| {
        // SAFETY: each row once.
        let mut block = unsafe { shared.block(row..row + 1, 0..keys) };
        let (weights, query) = (block.row(0), past + row / heads % length);
        let mask = &sequences[row / heads / length].mask[seen.clone()];
        probabilities(query, weights, seen.start, mask, positions, shape);
        round(weights, precision);
    });
    let mut sums = vec![0.0; cache.tasks() * rows * dim];
    let shared = SharedMatrix::new(&mut sums, cache.tasks() * rows, dim);
    parallel::for_each(sequences.len() * cache.tasks(), |task| {
        let (sequence, task) = (task / cache.tasks(), task % cache.tasks());
        cache.for_each_part(task, sequences[sequence].values, |row, part_keys, part| {
            let row = sequence * length * heads + row;
            let weights = &weights[row * keys + part_keys.start..];
            let weights = View::new(weights, group, part_keys.len(), keys);
            let row = task * rows + row;
            // SAFETY: tasks differ in sequence or number, so their blocks share no element.
            let mut out = unsafe { shared.block(row..row + group, 0..dim) };
            add_weighted(set, weights, part, &mut out);
        });
    });
    let width = heads * dim;
    for_each_row(sequences.len() * length, cache.tasks() * width, |row| {
        // SAFETY: each row once.
        let mut block = unsafe { out.block(row..row + 1, 0..width) };
        let out = block.row(0);
        out.fill(0.0);
        for sums in sums.chunks_exact(rows * dim) {
            for (out, sum) in out.iter_mut().zip(&sums[row * width..]) {
                *out += sum;
            }
        }
        round(out, precision);
    });
}

/// Calls `run` for each row, in tasks of several unless a row is long.
fn for_each_row(rows: usize, width: usize, run: impl Fn(usize) + Sync + Send) {
    let each = rows_a_task(width);
    parallel::for_each(rows.div_ceil(each), |task| {
        (task * each..rows.min((task + 1) * each)).for_each(&run);
    });
}

/// How the positions that a sequence's queries see are gone through.
struct Cache<'a> {
    shape: &'a AttentionShape,
    queries: usize,
    seen: Range<usize>,
    task_positions: usize,
}

impl<'a> Cache<'a> {
    fn new(shape: &'a AttentionShape, queries: usize, seen: Range<usize>) -> Self {
        let task_positions = seen.len().div_ceil(TASKS).next_multiple_of(TASK_POSITIONS);
        Self {
            shape,
            queries,
            seen,
            task_positions,
        }
    }

    /// Heads of a query that share a head of keys.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Tasks a sequence.
    fn tasks(&self) -> usize {
        self.seen.len().div_ceil(self.task_positions)
    }

    /// Calls `meet` for what each group of heads of each query meets in the task's positions, a block at a time: with the
    /// first of its heads among those of all queries, the positions as numbers among the seen ones, and their keys or
    /// values.
    fn for_each_part(
        &self,
        task: usize,
        cached: &[f32],
        mut meet: impl FnMut(usize, Range<usize>, View<'_>),
    ) {
        let (dim, stride) = (self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        let end = self.seen.len().min((task + 1) * self.task_positions);
        for first in (task * self.task_positions..end).step_by(BLOCK) {
            let positions = first..end.min(first + BLOCK);
            for kv_head in 0..self.shape.kv_heads {
                let part = &cached[(self.seen.start + first) * stride + kv_head * dim..];
                let part = View::new(part, positions.len(), dim, stride);
                for query in 0..self.queries {
                    let row = query * self.shape.heads + kv_head * self.group();
                    meet(row, positions.clone(), part);
                }
            }
        }
    }
}
