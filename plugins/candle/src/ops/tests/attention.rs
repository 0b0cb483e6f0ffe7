//! Attention, with and without a cache.

use super::{PRECISIONS, Random, activations, assert_close, ops, read, rounding, tokens};
use qbench_architectures::{AttentionShape, Ops};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_is_its_definition() {
    for precision in PRECISIONS {
        let ops = ops(precision);
        let mut random = Random(3);
        // Probabilities are rounded to the precision before their product with the values, the result once more.
        let tolerance = 2.0 * rounding(precision) + 4e-6;
        for (heads, kv_heads, head_dim, length, past, causal, window) in [
            (3, 1, 256, 130, 0, true, None),
            (4, 2, 128, 65, 0, true, Some(16)),
            (6, 2, 64, 300, 0, true, None),
            (8, 8, 96, 257, 0, true, None),
            (2, 1, 192, 129, 0, false, None),
            (2, 2, 6, 5, 40, true, None),
            (2, 1, 10, 1, 90, true, Some(7)),
            (4, 1, 256, 1, 300, true, None),
            (2, 1, 64, 3, 64, true, None),
            (2, 1, 96, 150, 33, true, Some(100)),
            (2, 1, 32, 70, 0, false, None),
        ] {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                causal,
                window,
            };
            let what = format!("{precision} {shape:?} length {length} past {past}");
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
                // What the cache holds already arrives in two passes, so that it grows.
                let part = |from: usize, to: usize, all: &[f32]| -> Vec<f32> {
                    all.chunks_exact(positions * kv_width)
                        .flat_map(|sequence| &sequence[from * kv_width..to * kv_width])
                        .copied()
                        .collect()
                };
                let half = past / 2;
                for (from, to) in [(0, half), (half, past)] {
                    if from < to {
                        let all = vec![1; batch * to];
                        let tokens = tokens(
                            &ops,
                            &vec![0; batch * (to - from)],
                            &all,
                            batch,
                            from,
                            head_dim / 2,
                        );
                        ops.attention(
                            activations(
                                &ops,
                                &vec![0.0; batch * (to - from) * heads * head_dim],
                                heads * head_dim,
                            ),
                            activations(&ops, &part(from, to, &keys), kv_width),
                            activations(&ops, &part(from, to, &values), kv_width),
                            &shape,
                            &tokens,
                            Some(&mut cache),
                        )
                        .unwrap();
                    }
                }
                let tokens = tokens(&ops, &vec![0; batch * length], &mask, batch, past, head_dim / 2);
                let out = ops
                    .attention(
                        activations(&ops, &q, heads * head_dim),
                        activations(&ops, &part(past, positions, &keys), kv_width),
                        activations(&ops, &part(past, positions, &values), kv_width),
                        &shape,
                        &tokens,
                        (past > 0).then_some(&mut cache),
                    )
                    .unwrap();
                assert_close(&read(&ops, &out), &truth, tolerance, &what);
            }
        }
    }
}

/// The definition, one query and one key at a time.
pub(super) fn naive_attention(
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
