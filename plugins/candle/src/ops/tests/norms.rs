//! Norms and sums.

use super::{PRECISIONS, Random, activations, assert_close, floats, ops, read, rounding};
use qbench_architectures::Ops;

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn norms_and_sums() {
    for precision in PRECISIONS {
        let ops = ops(precision);
        let mut random = Random(1);
        for (rows, width) in [(1, 8), (5, 96), (3, 7), (70, 3072), (9, 770), (2, 5001)] {
            let what = format!("{precision} {rows} x {width}");
            let x = random.values(rows * width, precision);
            let y = random.values(rows * width, precision);
            let weight = random.values(width, precision);
            let weights = floats(&ops, &weight);
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
            let on_gpu = activations(&ops, &x, width);
            let normed = ops.rms_norm(&on_gpu, &weights, 1e-5).unwrap();
            assert_close(&read(&ops, &normed), &norm(&x), tolerance, &what);

            let delta = activations(&ops, &y, width);
            let (sum, normed) = ops.add_rms_norm(on_gpu, &delta, &weights, 1e-5).unwrap();
            let sums = read(&ops, &sum);
            let truth: Vec<f64> = x
                .iter()
                .zip(&y)
                .map(|(x, y)| f64::from(*x) + f64::from(*y))
                .collect();
            assert_close(&sums, &truth, tolerance, &what);
            // Of the rounded sum.
            assert_close(&read(&ops, &normed), &norm(&sums), tolerance, &what);

            let (left, right) = (activations(&ops, &x, width), activations(&ops, &y, width));
            assert_eq!(read(&ops, &ops.add(left, &right).unwrap()), sums, "{what}");
        }
    }
}
