//! Every operation against its definition in f64.

use qbench_architectures::{AttentionShape, Ops, Pass};
use qbench_sdk::{
    DType,
    backend::{Cache, TokenBatch},
};

use super::{Tokens, TorchOps};
use crate::test_support::{MemoryTensor, Random, assert_close, contexts, product, read, rounding};

fn all() -> impl Iterator<Item = (String, TorchOps)> {
    contexts()
        .into_iter()
        .map(|context| (context.name(), TorchOps::new(context).unwrap()))
}

/// A pass of sequences with this mask; angles of 0.1 times position plus pair.
fn tokens(ops: &TorchOps, ids: &[u32], mask: &[u8], batch: usize, past: usize, half: usize) -> Tokens {
    let length = ids.len() / batch;
    let angles: Vec<f32> = (0..length * half)
        .map(|i| 0.1 * ((past + i / half) as f32 + (i % half) as f32))
        .collect();
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    ops.begin(&Pass {
        tokens: TokenBatch {
            ids,
            mask,
            batch,
            length,
            cache: Cache::None,
        },
        past,
        cos: &cos,
        sin: &sin,
    })
    .unwrap()
}

#[test]
fn norms_and_sums() {
    for (name, mut ops) in all() {
        let precision = ops.context.precision;
        let mut random = Random(1);
        for (rows, width) in [(1, 8), (5, 96), (3, 7), (70, 3072), (9, 770), (2, 5001)] {
            let what = format!("{name} {rows} x {width}");
            let x = random.values(rows * width, precision);
            let y = random.values(rows * width, precision);
            let weight = random.values(width, precision);
            let weights = MemoryTensor::dense(1, width, DType::F32, &weight);
            let weights = ops.load_vector(weights.boxed()).unwrap().value;
            let norm = |x: &[f32]| -> Vec<f64> {
                x.chunks_exact(width)
                    .flat_map(|row| {
                        let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
                        let factor = 1.0 / (square / width as f64 + 1e-5).sqrt();
                        row.iter()
                            .zip(&weight)
                            .map(move |(x, w)| f64::from(*x) * factor * f64::from(*w))
                            .collect::<Vec<_>>()
                    })
                    .collect()
            };
            // One rounding, and f32 sums of a few thousand squares.
            let tolerance = rounding(precision) + 1e-6;
            let state = ops.context.activations(&x, width);
            let normed = ops.rms_norm(&state, &weights, 1e-5).unwrap();
            assert_close(&read(&normed), &norm(&x), tolerance, &what);

            let delta = ops.context.activations(&y, width);
            let (sum, normed) = ops.add_rms_norm(state, &delta, &weights, 1e-5).unwrap();
            let sums = read(&sum);
            let truth: Vec<f64> = x
                .iter()
                .zip(&y)
                .map(|(x, y)| f64::from(*x) + f64::from(*y))
                .collect();
            assert_close(&sums, &truth, tolerance, &what);
            // Of the rounded sum.
            assert_close(&read(&normed), &norm(&sums), tolerance, &what);
        }
    }
}

#[test]
fn rotations_gathers_and_means() {
    for (name, mut ops) in all() {
        let precision = ops.context.precision;
        let mut random = Random(2);
        for (batch, length, q_heads, k_heads, head_dim) in
            [(2, 5, 3, 1, 64), (1, 70, 2, 2, 96), (3, 4, 1, 1, 6)]
        {
            let what = format!("{name} {batch} {length} {head_dim}");
            let rows = batch * length;
            let ids: Vec<u32> = (0..rows).map(|i| (i * 7 % 11) as u32).collect();
            let mut mask = vec![1; rows];
            mask[0] = 0;
            mask[rows - length..].fill(0);
            let tokens = tokens(&ops, &ids, &mask, batch, 0, head_dim / 2);
            let rotated = |x: &[f32], heads: usize| -> Vec<f64> {
                let mut out = vec![0.0; x.len()];
                let chunks = x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
                for (head, (x, out)) in chunks.enumerate() {
                    let position = head / heads % length;
                    for pair in 0..head_dim / 2 {
                        let angle = 0.1 * (position as f32 + pair as f32);
                        let (cos, sin) = (f64::from(angle.cos()), f64::from(angle.sin()));
                        let (a, b) = (f64::from(x[pair]), f64::from(x[pair + head_dim / 2]));
                        out[pair] = a * cos - b * sin;
                        out[pair + head_dim / 2] = b * cos + a * sin;
                    }
                }
                out
            };
            let q = random.values(rows * q_heads * head_dim, precision);
            let k = random.values(rows * k_heads * head_dim, precision);
            let (turned_q, turned_k) = ops
                .rope(
                    ops.context.activations(&q, q_heads * head_dim),
                    ops.context.activations(&k, k_heads * head_dim),
                    head_dim,
                    &tokens,
                )
                .unwrap();
            let tolerance = rounding(precision) + 1e-6;
            assert_close(&read(&turned_q), &rotated(&q, q_heads), tolerance, &what);
            assert_close(&read(&turned_k), &rotated(&k, k_heads), tolerance, &what);

            let width = q_heads * head_dim;
            let table = random.values(11 * width, precision);
            let stored = MemoryTensor::dense(11, width, precision, &table);
            let linear = ops.load_linear(stored.boxed(), None).unwrap().value;
            let embedded = read(&ops.embed(&linear, &tokens).unwrap());
            for (row, id) in embedded.chunks_exact(width).zip(&ids) {
                assert_eq!(row, &table[*id as usize * width..][..width], "{what}");
            }

            let states = ops.context.activations(&q, width);
            let last = ops.last_positions(&states, &tokens).unwrap();
            assert!(last.is_contiguous(), "{what}");
            let last = read(&last);
            for (sequence, row) in last.chunks_exact(width).enumerate() {
                let truth = &q[((sequence + 1) * length - 1) * width..][..width];
                assert_eq!(row, truth, "{what}");
            }
            let mut means = vec![f32::NAN; batch * width];
            ops.read_pooled(ops.mean_pool(&states, &tokens).unwrap(), &mut means)
                .unwrap();
            let truth: Vec<f64> = (0..batch * width)
                .map(|i| {
                    let (sequence, col) = (i / width, i % width);
                    let tokens: Vec<usize> = (sequence * length..(sequence + 1) * length)
                        .filter(|row| mask[*row] == 1)
                        .collect();
                    let sum: f64 = tokens.iter().map(|row| f64::from(q[row * width + col])).sum();
                    sum / tokens.len().max(1) as f64
                })
                .collect();
            // f32 sums of up to 70 values.
            assert_close(&means, &truth, 5e-7, &what);
        }
    }
}

/// The definition, one query and one key at a time.
fn naive_attention(
    (q, keys, values, mask): (&[f32], &[f32], &[f32], &[u8]),
    batch: usize,
    length: usize,
    past: usize,
    shape: &AttentionShape,
) -> Vec<f64> {
    let dim = shape.head_dim;
    let (width, stride, positions) = (shape.heads * dim, shape.kv_heads * dim, past + length);
    let mut out = vec![0.0; q.len()];
    for sequence in 0..batch {
        let at = sequence * positions;
        for i in 0..length {
            for head in 0..shape.heads {
                let query = &q[(sequence * length + i) * width + head * dim..][..dim];
                let kv = head * shape.kv_heads / shape.heads * dim;
                let seen = |j: &usize| {
                    mask[at + j] == 1
                        && (!shape.causal || *j <= past + i)
                        && shape.window.is_none_or(|window| j + window > past + i)
                };
                let weights: Vec<(usize, f64)> = (0..positions)
                    .filter(seen)
                    .map(|j| {
                        let key = &keys[(at + j) * stride + kv..][..dim];
                        let dot: f64 = query
                            .iter()
                            .zip(key)
                            .map(|(a, b)| f64::from(*a) * f64::from(*b))
                            .sum();
                        (j, (dot * f64::from(shape.scale)).exp())
                    })
                    .collect();
                let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
                let out = &mut out[(sequence * length + i) * width + head * dim..][..dim];
                for (j, weight) in weights {
                    let value = &values[(at + j) * stride + kv..][..dim];
                    for (out, value) in out.iter_mut().zip(value) {
                        *out += weight / sum * f64::from(*value);
                    }
                }
            }
        }
    }
    out
}

#[test]
fn attention_is_its_definition() {
    for (name, ops) in all() {
        let precision = ops.context.precision;
        let mut random = Random(3);
        // Probabilities are rounded to the precision before their product with the values, the result once more.
        let tolerance = 2.0 * rounding(precision) + 4e-6;
        for (heads, kv_heads, head_dim, length, past, causal, window) in [
            (3, 1, 256, 130, 0, true, None),
            (4, 2, 128, 65, 0, true, Some(16)),
            (8, 8, 96, 57, 0, true, None),
            (2, 1, 192, 29, 0, false, None),
            (2, 2, 8, 5, 40, true, None),
            (2, 1, 16, 1, 90, true, Some(7)),
            (4, 1, 256, 1, 300, true, None),
            (2, 1, 64, 3, 64, true, None),
            (2, 1, 96, 50, 33, true, Some(40)),
        ] {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                causal,
                window,
            };
            let what = format!("{name} {shape:?} length {length} past {past}");
            let (batch, positions, kv_width) = (3, past + length, kv_heads * head_dim);
            let q = random.values(batch * length * heads * head_dim, precision);
            let keys = random.values(batch * positions * kv_width, precision);
            let values = random.values(batch * positions * kv_width, precision);
            for padded in [false, true] {
                let mut mask = vec![1; batch * positions];
                if padded {
                    // Not padded, padded on the right, padded on the left.
                    mask[2 * positions - positions / 3..2 * positions].fill(0);
                    mask[2 * positions..2 * positions + positions / 3].fill(0);
                }
                let truth = naive_attention((&q, &keys, &values, &mask), batch, length, past, &shape);
                let mut cache = ops.new_cache(batch, &shape).unwrap();
                let part = |from: usize, to: usize, all: &[f32]| -> Vec<f32> {
                    all.chunks_exact(positions * kv_width)
                        .flat_map(|sequence| &sequence[from * kv_width..to * kv_width])
                        .copied()
                        .collect()
                };
                let half = past / 2;
                // What the cache holds already arrives in two passes, so that it grows; then the pass that is compared.
                let mut out = None;
                for (from, to) in [(0, half), (half, past), (past, positions)] {
                    if from == to {
                        continue;
                    }
                    let seen: Vec<u8> = mask
                        .chunks_exact(positions)
                        .flat_map(|mask| &mask[..to])
                        .copied()
                        .collect();
                    let tokens = tokens(
                        &ops,
                        &vec![0; batch * (to - from)],
                        &seen,
                        batch,
                        from,
                        head_dim / 2,
                    );
                    let queries = if to == positions {
                        q.clone()
                    } else {
                        vec![0.0; batch * (to - from) * heads * head_dim]
                    };
                    let mixed = ops.attention(
                        ops.context.activations(&queries, heads * head_dim),
                        ops.context.activations(&part(from, to, &keys), kv_width),
                        ops.context.activations(&part(from, to, &values), kv_width),
                        &shape,
                        &tokens,
                        (past > 0).then_some(&mut cache),
                    );
                    out = Some(mixed.unwrap());
                }
                assert_close(&read(&out.unwrap()), &truth, tolerance, &what);
            }
        }
    }
}

#[test]
fn a_gated_mlp_and_its_logits() {
    for (name, mut ops) in all() {
        let precision = ops.context.precision;
        let mut random = Random(4);
        let mut load = |rows: usize, cols: usize| {
            let values = random.values(rows * cols, precision);
            let stored = MemoryTensor::dense(rows, cols, precision, &values);
            (values, ops.load_linear(stored.boxed(), None).unwrap().value)
        };
        let ((gate, gate_linear), (up, up_linear), (down, down_linear)) =
            (load(40, 64), load(40, 64), load(64, 40));
        let x = random.values(9 * 64, precision);
        let inner: Vec<f32> = product(&x, &gate, 64, None)
            .into_iter()
            .zip(product(&x, &up, 64, None))
            .map(|(gate, up)| (gate / (1.0 + (-gate).exp()) * up) as f32)
            .collect();
        let states = ops.context.activations(&x, 64);
        let out = ops
            .gated_mlp(&states, &gate_linear, &up_linear, &down_linear)
            .unwrap();
        let truth = product(&inner, &down, 40, None);
        // Four roundings on the way, two of them of factors of the same product.
        assert_close(&read(&out), &truth, 6.0 * rounding(precision) + 4e-6, &name);
        let mut logits = vec![f32::NAN; 9 * 40];
        ops.project(&states, &up_linear, &mut logits).unwrap();
        assert_close(&logits, &product(&x, &up, 64, None), 4e-6, &name);
    }
}
