//! Rotations, gathered rows and means.

use super::{PRECISIONS, Random, activations, assert_close, dense, ops, read, rounding, tokens};
use qbench_architectures::Ops;

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn rotations_gathers_and_means() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(2);
        for (batch, length, q_heads, k_heads, head_dim) in
            [(2, 5, 3, 1, 64), (1, 70, 2, 2, 96), (3, 4, 1, 1, 6)]
        {
            let what = format!("{precision} {batch} {length} {head_dim}");
            let rows = batch * length;
            let ids: Vec<u32> = (0..rows).map(|i| (i * 7 % 11) as u32).collect();
            let mut mask = vec![1; rows];
            mask[0] = 0;
            mask[rows - length..].fill(0);
            let tokens = tokens(&ops, &ids, &mask, batch, 0, head_dim / 2);
            let rotated = |x: &[f32], heads: usize| -> Vec<f64> {
                let mut out = vec![0.0; x.len()];
                for (head, (x, out)) in x
                    .chunks_exact(head_dim)
                    .zip(out.chunks_exact_mut(head_dim))
                    .enumerate()
                {
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
                    activations(&ops, &q, q_heads * head_dim),
                    activations(&ops, &k, k_heads * head_dim),
                    head_dim,
                    &tokens,
                )
                .unwrap();
            let tolerance = rounding(precision) + 1e-6;
            assert_close(&read(&ops, &turned_q), &rotated(&q, q_heads), tolerance, &what);
            assert_close(&read(&ops, &turned_k), &rotated(&k, k_heads), tolerance, &what);

            let width = q_heads * head_dim;
            let table = random.values(11 * width, precision);
            let linear = ops
                .load_linear(Box::new(dense(11, width, precision, &table)), None)
                .unwrap()
                .value;
            let embedded = read(&ops, &ops.embed(&linear, &tokens).unwrap());
            for (row, id) in embedded.chunks_exact(width).zip(&ids) {
                assert_eq!(row, &table[*id as usize * width..][..width], "{what}");
            }

            let states = activations(&ops, &q, width);
            let last = read(&ops, &ops.last_positions(&states, &tokens).unwrap());
            for (sequence, row) in last.chunks_exact(width).enumerate() {
                assert_eq!(
                    row,
                    &q[((sequence + 1) * length - 1) * width..][..width],
                    "{what}"
                );
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
            assert_close(&means, &truth, 1e-7, &what);
        }
    }
}
