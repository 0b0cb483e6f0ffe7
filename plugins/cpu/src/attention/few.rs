//! Attention of a query or a few: keys and values are read once, where they lie.

use multiversion::multiversion;
use qbench_architectures::AttentionShape;
use qbench_cpu_kernels::matrix::SharedMatrix;
use qbench_sdk::DType;

use super::{Sequence, probabilities, visible};
use crate::{elementwise::round, parallel};

/// Lanes of a sum: fixed, so that the order of its terms is the same on every machine.
const LANES: usize = 16;

/// Columns of the values that are summed at once, in registers.
const COLUMNS: usize = 32;

/// [`attention`](super::attention) for few queries a sequence.
pub(super) fn attention(
    q: &[f32],
    sequences: &[Sequence<'_>],
    length: usize,
    past: usize,
    shape: &AttentionShape,
    precision: DType,
    out: &SharedMatrix<'_, f32>,
) {
    let (dim, heads) = (shape.head_dim, shape.heads);
    let stride = shape.kv_heads * dim;
    parallel::for_each(sequences.len() * heads, |task| {
        let (head, sequence) = (task % heads, task / heads);
        let kv_head = head / (heads / shape.kv_heads);
        let columns = head * dim..(head + 1) * dim;
        let rows = sequence * length..(sequence + 1) * length;
        // SAFETY: tasks differ in sequence or head, so their blocks share no element.
        let mut out = unsafe { out.block(rows.clone(), columns.clone()) };
        let Sequence { keys, values, mask } = &sequences[sequence];
        let positions = mask.len();
        let mut scores = Vec::new();
        for query in 0..length {
            let q = &q[(rows.start + query) * heads * dim..][columns.clone()];
            let seen = visible(past + query, positions, shape);
            let offset = seen.start * stride + kv_head * dim;
            scores.resize(seen.len(), 0.0);
            dots(q, &keys[offset..], stride, &mut scores);
            let mask = &mask[seen.clone()];
            probabilities(past + query, &mut scores, seen.start, mask, positions, shape);
            round(&mut scores, precision);
            let out = out.row(query);
            weighted_sum(&scores, &values[offset..], stride, out);
            round(out, precision);
        }
    });
}

/// The product of `q` with each key, `stride` elements apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn dots(q: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
    for (index, score) in scores.iter_mut().enumerate() {
        let key = &keys[index * stride..][..q.len()];
        let mut sums = [0.0; LANES];
        let ((q, q_tail), (key, key_tail)) = (q.as_chunks::<LANES>(), key.as_chunks::<LANES>());
        for (q, key) in q.iter().zip(key) {
            for ((sum, q), key) in sums.iter_mut().zip(q).zip(key) {
                *sum += q * key;
            }
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
        }
        let tail: f32 = q_tail.iter().zip(key_tail).map(|(q, key)| q * key).sum();
        *score = sums[0] + tail;
    }
}

/// The sum of the values, `stride` elements apart, each times its weight.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn weighted_sum(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    let (chunks, tail) = out.as_chunks_mut::<COLUMNS>();
    let tail_start = chunks.len() * COLUMNS;
    for (chunk, out) in chunks.iter_mut().enumerate() {
        let mut sums = [0.0; COLUMNS];
        for (index, weight) in weights.iter().enumerate() {
            let row = &values[index * stride + chunk * COLUMNS..][..COLUMNS];
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
        *out = sums;
    }
    tail.fill(0.0);
    for (index, weight) in weights.iter().enumerate() {
        let row = &values[index * stride + tail_start..][..tail.len()];
        for (sum, value) in tail.iter_mut().zip(row) {
            *sum += weight * value;
        }
    }
}
