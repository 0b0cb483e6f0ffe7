//! Products of int8 weights.

use super::{
    CudaOps, MemoryTensor, PRECISIONS, Random, activations, assert_close, floats, ops, read, rounding,
};
use qbench_architectures::Ops;
use qbench_sdk::{
    AlignedBuffer, DType, Layout,
    layout::{Int8Vectorwise, int8::quantize_activations},
};

use crate::{error, linear::Linear};

fn load(ops: &mut CudaOps, random: &mut Random, rows: usize, cols: usize) -> Linear {
    let layout = Layout::Int8Vectorwise(Int8Vectorwise { rows, cols });
    let codes: Vec<i8> = (0..rows * cols).map(|_| (random.next() % 255) as i8).collect();
    let buffers = vec![
        AlignedBuffer::from_bytes(bytemuck::cast_slice(&codes)),
        AlignedBuffer::from_bytes(bytemuck::cast_slice(&random.values(rows, DType::F32))),
        AlignedBuffer::from_bytes(&6.0_f32.to_ne_bytes()),
    ];
    ops.load_linear(Box::new(MemoryTensor { layout, buffers }), None)
        .unwrap()
        .value
}

/// In one launch or in several: the same bits.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_several_weights_are_those_of_each() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(24);
        let (width, inner) = (320, 96);
        let mut weight = |rows, cols| load(&mut ops, &mut random, rows, cols);
        let (q, k, v) = (weight(48, width), weight(16, width), weight(21, width));
        let (gate, up, down) = (weight(inner, width), weight(inner, width), weight(width, inner));
        for (tokens, outlier) in [(1, true), (1, false), (2, true), (3, false), (4, true), (9, true)] {
            let mut values = random.values(tokens * width, precision);
            if outlier {
                values[width - 3] = 40.0;
            }
            let x = activations(&ops, &values, width);
            let what = format!("{precision} {tokens}, outlier {outlier}");
            for (together, weight) in ops
                .projections(&x, [&q, &k, &v])
                .unwrap()
                .iter()
                .zip([&q, &k, &v])
            {
                let alone = ops.linear(&x, weight).unwrap();
                assert_eq!(read(&ops, together), read(&ops, &alone), "{what}");
            }
            let at_once = ops.gated_mlp(&x, &gate, &up, &down).unwrap();
            let (one, other) = (ops.linear(&x, &gate).unwrap(), ops.linear(&x, &up).unwrap());
            // SAFETY: both are `[tokens, inner]`.
            unsafe {
                ops.gpu.kernels.elementwise.silu_product(
                    one.address(),
                    other.address(),
                    tokens * inner,
                    ops.element,
                    ops.gpu.stream(),
                )
            }
            .map_err(error::kernel)
            .unwrap();
            let in_steps = ops.linear(&one, &down).unwrap();
            assert_eq!(read(&ops, &at_once), read(&ops, &in_steps), "{what}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_int8_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(6);
        for (rows, cols, biased) in [
            (128, 320, false),
            (5000, 48, false),
            (24, 4624, false),
            (37, 100, true),
            (33, 7, false),
            (256, 768, true),
        ] {
            let layout = Layout::Int8Vectorwise(Int8Vectorwise { rows, cols });
            let codes: Vec<i8> = (0..rows * cols).map(|_| (random.next() % 255) as i8).collect();
            let scales = random.values(rows, DType::F32);
            let bias = random.values(rows, precision);
            let buffers = vec![
                AlignedBuffer::from_bytes(bytemuck::cast_slice(&codes)),
                AlignedBuffer::from_bytes(bytemuck::cast_slice(&scales)),
                AlignedBuffer::from_bytes(&6.0_f32.to_ne_bytes()),
            ];
            let on_gpu = biased.then(|| floats(&ops, &bias));
            let linear = ops
                .load_linear(Box::new(MemoryTensor { layout, buffers }), on_gpu)
                .unwrap()
                .value;
            for tokens in [1, 2, 3, 5, 70, 300] {
                for outliers in [false, true] {
                    let mut x = random.values(tokens * cols, precision);
                    if outliers {
                        // In two columns, and one only just.
                        x[(tokens - 1) * cols + 3] = 40.0;
                        x[cols - 1] = -6.0;
                    }
                    let quantized = quantize_activations(&x, tokens, cols, 6.0).unwrap();
                    let sums = quantized.product_i32(&codes, rows);
                    let mut truth: Vec<f64> = quantized
                        .dequantize(&sums, &scales, biased.then_some(bias.as_slice()))
                        .into_iter()
                        .map(f64::from)
                        .collect();
                    for (index, value) in truth.iter_mut().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        for col in &quantized.outlier_columns {
                            let weight = f64::from(codes[row * cols + col]) * f64::from(scales[row]) / 127.0;
                            *value += f64::from(x[token * cols + col]) * weight;
                        }
                    }
                    let what = format!("{precision} {tokens} {rows} x {cols}, outliers {outliers}");
                    assert_eq!(
                        quantized.outlier_columns.len(),
                        if outliers { 2 } else { 0 },
                        "{what}"
                    );
                    let out = ops.linear(&activations(&ops, &x, cols), &linear).unwrap();
                    // The sum, the outliers' weights and the whole are each rounded once.
                    assert_close(&read(&ops, &out), &truth, 3.0 * rounding(precision) + 2e-6, &what);
                }
            }
        }
    }
}
