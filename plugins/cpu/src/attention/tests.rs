use qbench_cpu_kernels::InstructionSet;

use super::*;
use crate::tests::support::{Random, assert_close};

fn every_kernels() -> Vec<Kernels> {
    let sets = InstructionSet::ALL.into_iter().filter(|set| set.is_available());
    [Kernels::Reference]
        .into_iter()
        .chain(sets.map(Kernels::Own))
        .collect()
}

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
        (2, 2, 96, 200, 0, true, Some(50)),
        (2, 1, 34, 31, 90, true, Some(37)),
        (4, 2, 96, 3, 50, true, None),
        (2, 1, 40, 4, 0, false, None),
        (12, 4, 256, 1, 150, true, None),
        (6, 2, 128, 4, 77, true, None),
        (5, 1, 64, 2, 131, true, Some(100)),
        (3, 3, 96, 1, 2100, true, None),
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
        for kernels in every_kernels() {
            let mut out = vec![f32::NAN; q.len()];
            attention(
                kernels,
                &q,
                &sequences,
                length,
                past,
                &shape,
                DType::F32,
                &mut out,
            );
            assert_close(
                &out,
                &naive(&q, &sequences, length, past, &shape),
                TOLERANCE,
                &format!("{kernels:?} {shape:?}"),
            );
        }
    }
}

#[test]
fn threads_change_no_bit_of_a_step() {
    let shape = AttentionShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        causal: true,
        window: None,
    };
    let (length, past) = (2, 3000);
    let mut random = Random::new(9);
    let mut normal = |rows: usize, heads: usize| random.normal(rows * heads * shape.head_dim, 1.0);
    let q = normal(length, shape.heads);
    let (keys, values) = (
        normal(past + length, shape.kv_heads),
        normal(past + length, shape.kv_heads),
    );
    let sequences = [Sequence {
        keys: &keys,
        values: &values,
        mask: &vec![1; past + length],
    }];
    let step = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let kernels = Kernels::Own(InstructionSet::best());
        let mut out = vec![f32::NAN; q.len()];
        pool.install(|| {
            parallel::awake(|| {
                attention(
                    kernels,
                    &q,
                    &sequences,
                    length,
                    past,
                    &shape,
                    DType::BF16,
                    &mut out,
                );
            });
        });
        out
    };
    assert!(step(1) == step(5));
}

#[test]
fn attention_in_bf16_is_its_definition() {
    // Probabilities and outputs are rounded to 8 bits each: a 256th of values up to 3, of which each error is a half.
    const TOLERANCE: f64 = 0.012;
    let mut random = Random::new(8);
    for (length, past) in [(77, 14), (2, 89)] {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 98,
            scale: 0.1,
            causal: true,
            window: None,
        };
        let mut normal = |count: usize| {
            let mut values = random.normal(count, 1.0);
            round(&mut values, DType::BF16);
            values
        };
        let positions = past + length;
        let q = normal(length * shape.heads * shape.head_dim);
        let keys = normal(positions * shape.kv_heads * shape.head_dim);
        let values = normal(positions * shape.kv_heads * shape.head_dim);
        let sequences = [Sequence {
            keys: &keys,
            values: &values,
            mask: &vec![1; positions],
        }];
        for kernels in every_kernels() {
            let mut out = vec![f32::NAN; q.len()];
            attention(
                kernels,
                &q,
                &sequences,
                length,
                past,
                &shape,
                DType::BF16,
                &mut out,
            );
            assert_close(
                &out,
                &naive(&q, &sequences, length, past, &shape),
                TOLERANCE,
                &format!("{kernels:?}"),
            );
        }
    }
}
