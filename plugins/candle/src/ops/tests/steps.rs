//! Steps of decoding: attention with keys split over blocks, the new position's way into the cache, and a step recorded.

use qbench_architectures::{AttentionShape, Ops};
use qbench_sdk::{DType, backend::Cache};

use super::{
    PRECISIONS, Random, activations, assert_close, attention::naive_attention, copy_columns, dense, ops,
    pass, product, read, rounding,
};

/// What one shape is tried with: heads, heads of keys, their width, positions before the steps, window.
type Case = (usize, usize, usize, usize, Option<usize>);

/// Positions that are added one at a time.
const STEPS: usize = 6;

/// All keys or values of a sequence from `from` to `to`, for each sequence.
fn part(all: &[f32], positions: usize, width: usize, from: usize, to: usize) -> Vec<f32> {
    all.chunks_exact(positions * width)
        .flat_map(|sequence| &sequence[from * width..to * width])
        .copied()
        .collect()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_steps_attention_is_its_definition() {
    // Few and many positions, across growth of the cache at 256, widths of one to four pairs a lane, odd and even.
    let cases: [Case; 8] = [
        (3, 1, 256, 0, None),
        (12, 4, 256, 253, None),
        (4, 2, 128, 65, Some(16)),
        (6, 2, 64, 300, None),
        (8, 8, 96, 511, Some(100)),
        (2, 1, 192, 129, None),
        (2, 2, 6, 40, None),
        (2, 1, 10, 1030, Some(7)),
    ];
    for precision in PRECISIONS {
        let ops = ops(precision);
        let mut random = Random(11);
        // All sums are in f32; the result is rounded once.
        let tolerance = rounding(precision) + 4e-6;
        for (heads, kv_heads, head_dim, past, window) in cases {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                causal: true,
                window,
            };
            let (batch, positions, kv_width) = (3, past + STEPS, kv_heads * head_dim);
            let keys = random.values(batch * positions * kv_width, precision);
            let values = random.values(batch * positions * kv_width, precision);
            for padded in [false, true] {
                let mut cache = ops.new_cache(batch, &shape).unwrap();
                if past > 0 {
                    let seen = vec![1; batch * past];
                    let ids = vec![0; batch * past];
                    let tokens = pass(&ops, (&ids, &seen), batch, 0, head_dim / 2, Cache::Start);
                    let nothing = vec![0.0; batch * past * heads * head_dim];
                    ops.attention(
                        activations(&ops, &nothing, heads * head_dim),
                        activations(&ops, &part(&keys, positions, kv_width, 0, past), kv_width),
                        activations(&ops, &part(&values, positions, kv_width, 0, past), kv_width),
                        &shape,
                        &tokens,
                        Some(&mut cache),
                    )
                    .unwrap();
                }
                for at in past..positions {
                    let what = format!("{precision} {shape:?} position {at} padded {padded}");
                    let mut mask = vec![1; batch * (at + 1)];
                    if padded {
                        // Whole; right-padded, which hides the new position too; left-padded.
                        mask[2 * (at + 1) - at.div_ceil(3)..2 * (at + 1)].fill(0);
                        mask[2 * (at + 1)..2 * (at + 1) + at / 3].fill(0);
                    }
                    let q = random.values(batch * heads * head_dim, precision);
                    let (k, v) = (
                        part(&keys, positions, kv_width, at, at + 1),
                        part(&values, positions, kv_width, at, at + 1),
                    );
                    let ids = vec![0; batch];
                    let tokens = pass(&ops, (&ids, &mask), batch, at, head_dim / 2, Cache::Continue);
                    let out = ops
                        .attention(
                            activations(&ops, &q, heads * head_dim),
                            activations(&ops, &k, kv_width),
                            activations(&ops, &v, kv_width),
                            &shape,
                            &tokens,
                            Some(&mut cache),
                        )
                        .unwrap();
                    let seen_keys = part(&keys, positions, kv_width, 0, at + 1);
                    let seen_values = part(&values, positions, kv_width, 0, at + 1);
                    let truth = naive_attention((&q, &seen_keys, &seen_values, &mask), batch, 1, at, &shape);
                    assert_close(&read(&ops, &out), &truth, tolerance, &what);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_recorded_step_does_what_a_plain_one_does() {
    let (batch, rows, width, steps) = (2, 33, 64, 600);
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        scale: 0.25,
        causal: true,
        window: None,
    };
    let mut ops = ops(DType::F32);
    let mut random = Random(12);
    let table = random.values(11 * width, DType::F32);
    let weight = random.values(rows * width, DType::F32);
    let mut linear = |rows: usize, values: &[f32]| {
        let tensor = dense(rows, width, DType::F32, values);
        ops.load_linear(Box::new(tensor), None).unwrap().value
    };
    let (embedding, head) = (linear(11, &table), linear(rows, &weight));
    let mut caches = vec![ops.new_cache(batch, &shape).unwrap()];
    let mut keys: Vec<Vec<f32>> = vec![Vec::new(); batch];
    let mut plain = 0;
    for at in 0..steps {
        let ids = [at as u32 % 11, (at as u32 * 5 + 3) % 11];
        let mut mask = vec![1; batch * (at + 1)];
        // From the middle on, the second sequence's first tokens are padding.
        if at >= steps / 2 {
            mask[at + 1..at + 10].fill(0);
        }
        let tokens = pass(
            &ops,
            (&ids, &mask),
            batch,
            at,
            shape.head_dim / 2,
            Cache::Continue,
        );
        let mut logits = vec![f32::NAN; batch * rows];
        let calls = std::cell::Cell::new(0);
        ops.decode(&tokens, &mut caches, &head, &mut logits, &|caches| {
            calls.set(calls.get() + 1);
            let x = ops.embed(&embedding, &tokens)?;
            // Keys and values are the first half of the embedding.
            let half = ops.embed(&embedding, &tokens)?;
            let (k, v) = (ops.empty(batch, 32)?, ops.empty(batch, 32)?);
            for to in [&k, &v] {
                copy_columns(&ops, &half, to);
            }
            ops.attention(x, k, v, &shape, &tokens, caches.first_mut())
        })
        .unwrap();
        plain += calls.get();
        let embedded: Vec<f32> = ids
            .iter()
            .flat_map(|id| &table[*id as usize * width..][..width])
            .copied()
            .collect();
        for (keys, row) in keys.iter_mut().zip(embedded.chunks_exact(width)) {
            keys.extend_from_slice(&row[..32]);
        }
        let all = keys.concat();
        let mixed = naive_attention((&embedded, &all, &all, &mask), batch, 1, at, &shape);
        let mixed: Vec<f32> = mixed.into_iter().map(|value| value as f32).collect();
        let truth = product(&mixed, &weight, width, None);
        assert_close(&logits, &truth, 1e-5, &format!("step {at}"));
    }
    // Twice, once to run and once to record, for each capacity (256, 512, 1024) and for the mask.
    assert!(plain <= 2 * 5, "{plain} of {steps} steps were launched plainly");
    assert!(!ops.steps.is_refused());
}
