//! Products of dense weights.

use super::{PRECISIONS, Random, activations, assert_close, dense, floats, ops, product, read, rounding};
use qbench_architectures::Ops;
use qbench_sdk::DType;

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_dense_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(4);
        for (tokens, rows, cols) in [
            (1, 64, 96),
            (1, 70, 2000),
            (3, 33, 264),
            (4, 9, 8),
            (5, 33, 65),
            (70, 256, 384),
            (130, 1000, 7),
        ] {
            let what = format!("{precision} {tokens} {rows} x {cols}");
            let x = random.values(tokens * cols, precision);
            let weight = random.values(rows * cols, precision);
            let bias = random.values(rows, precision);
            // f32 sums of up to 2000 products of size 1, and one rounding.
            let tolerance = rounding(precision) + 4e-6;
            for stored in [precision, DType::F32] {
                for biased in [false, true] {
                    let on_gpu = biased.then(|| floats(&ops, &bias));
                    let linear = ops
                        .load_linear(Box::new(dense(rows, cols, stored, &weight)), on_gpu)
                        .unwrap()
                        .value;
                    let truth = product(&x, &weight, cols, biased.then_some(bias.as_slice()));
                    let input = activations(&ops, &x, cols);
                    let out = ops.linear(&input, &linear).unwrap();
                    assert_close(&read(&ops, &out), &truth, tolerance, &what);
                    let mut logits = vec![f32::NAN; tokens * rows];
                    ops.project(&input, &linear, &mut logits).unwrap();
                    assert_close(&logits, &truth, 4e-6, &what);
                }
            }
        }
        let (x, gate, up, down) = (
            random.values(9 * 64, precision),
            random.values(40 * 64, precision),
            random.values(40 * 64, precision),
            random.values(64 * 40, precision),
        );
        let mut load = |rows, cols, values: &[f32]| {
            ops.load_linear(Box::new(dense(rows, cols, precision, values)), None)
                .unwrap()
                .value
        };
        let weights = (load(40, 64, &gate), load(40, 64, &up), load(64, 40, &down));
        let inner: Vec<f32> = product(&x, &gate, 64, None)
            .into_iter()
            .zip(product(&x, &up, 64, None))
            .map(|(gate, up)| (gate / (1.0 + (-gate).exp()) * up) as f32)
            .collect();
        let out = ops
            .gated_mlp(&activations(&ops, &x, 64), &weights.0, &weights.1, &weights.2)
            .unwrap();
        // Four roundings on the way, two of them of factors of the same product.
        let tolerance = 6.0 * rounding(precision) + 4e-6;
        assert_close(
            &read(&ops, &out),
            &product(&inner, &down, 40, None),
            tolerance,
            "gated MLP",
        );
    }
}
