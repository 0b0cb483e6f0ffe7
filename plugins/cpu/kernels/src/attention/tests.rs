//! Both kernels on every set that this processor has, against plain sums.

use super::*;
use crate::matrix::SharedMatrix;

/// Eighths, whose products and sums of a few hundred are exact in any order.
fn eighths(count: usize, step: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * step % 61) as f32 - 30.0) / 8.0)
        .collect()
}

#[test]
fn scores_and_weighted_values_are_their_definitions() {
    for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
        for (queries, rows, width) in [
            (1, 1, 1),
            (2, 4, 16),
            (3, 7, 96),
            (4, 18, 31),
            (5, 3, 40),
            (11, 9, 256),
        ] {
            // Room between the rows, and none after the last.
            let stride = width + 5;
            let cached = eighths(stride * (rows - 1) + width, 23);
            let cached_view = View::new(&cached, rows, width, stride);
            let shape = format!("{set}, {queries} x {rows} x {width}");

            let q = eighths(queries * width, 17);
            // A part of wider rows, whose other columns stay as they are.
            let mut out = vec![0.5; queries * (rows + 3)];
            let shared = SharedMatrix::new(&mut out, queries, rows + 3);
            // SAFETY: the only block.
            let mut block = unsafe { shared.block(0..queries, 2..rows + 2) };
            scores(set, View::new(&q, queries, width, width), cached_view, &mut block);
            for (index, score) in out.iter().enumerate() {
                let (query, column) = (index / (rows + 3), index % (rows + 3));
                let expected = match column.checked_sub(2).filter(|row| *row < rows) {
                    Some(row) => (0..width)
                        .map(|k| q[query * width + k] * cached[row * stride + k])
                        .sum(),
                    None => 0.5,
                };
                assert_eq!(*score, expected, "score {query}, {column}: {shape}");
            }

            let weights = eighths(queries * (rows + 2), 29);
            let weights_view = View::new(&weights, queries, rows, rows + 2);
            let mut out = vec![0.5; queries * width];
            let mut block = Block::new(&mut out, queries, width);
            add_weighted(set, weights_view, cached_view, &mut block);
            for (index, sum) in out.iter().enumerate() {
                let (query, k) = (index / width, index % width);
                let expected = (0..rows)
                    .map(|row| weights[query * (rows + 2) + row] * cached[row * stride + k])
                    .sum::<f32>();
                assert_eq!(*sum, 0.5 + expected, "sum {query}, {k}: {shape}");
            }
        }
    }
}
