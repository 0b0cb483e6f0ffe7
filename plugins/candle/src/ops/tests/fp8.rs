//! Products of weights in e4m3, and the activations' way there.

use qbench_architectures::Ops;
use qbench_kernels::Fp8Activations;
use qbench_sdk::{
    AlignedBuffer, DType, Layout,
    layout::{
        ScaledFp8,
        fp8::{product, quantize_row},
    },
};

use super::{
    Activations, CudaOps, MemoryTensor, PRECISIONS, Random, activations, assert_close, dense, floats, ops,
    read, rounding,
};
use crate::{error, linear::Linear};

/// Tensor cores add products of e4m3 numbers with fewer bits than f32 has before a sum becomes f32. Relative to the largest
/// value of a product: half of what rounding to bf16 costs. The most that an H200 was seen to lose is 1.2e-3, with 17,000
/// columns of random codes.
const SUMS: f64 = 1.0 / 512.0;

/// Random codes that are numbers, and scales of which one is 0: so small that no product exceeds what f16 holds.
fn weight(random: &mut Random, rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
    let codes = (0..rows * cols)
        .map(|_| match random.next() as u8 {
            // No numbers.
            0x7f | 0xff => 0x38,
            code => code,
        })
        .collect();
    let mut scales = random.values(rows, DType::F32);
    for scale in &mut scales {
        *scale /= 64.0;
    }
    scales[rows / 2] = 0.0;
    (codes, scales)
}

fn load(ops: &mut CudaOps, (codes, scales): (&[u8], &[f32]), cols: usize, bias: Option<&[f32]>) -> Linear {
    let layout = Layout::ScaledFp8(ScaledFp8 {
        rows: scales.len(),
        cols,
    });
    let buffers = vec![
        AlignedBuffer::from_bytes(codes),
        AlignedBuffer::from_bytes(bytemuck::cast_slice(scales)),
    ];
    let bias = bias.map(|bias| floats(ops, bias));
    ops.load_linear(Box::new(MemoryTensor { layout, buffers }), bias)
        .unwrap()
        .value
}

/// Rows of ordinary values; with some to spare also one of zeros, one of large and small values, one with a NaN and one
/// with an infinity.
fn inputs(random: &mut Random, tokens: usize, cols: usize, precision: DType) -> Vec<f32> {
    let mut x = random.values(tokens * cols, precision);
    if tokens > 4 {
        x[..cols].fill(0.0);
        for (col, value) in x[cols..2 * cols].iter_mut().enumerate() {
            // Exact in every precision; down to numbers below the smallest of e4m3 times the scale.
            *value = 2.0_f32.powi(-((col % 24) as i32)) * if col % 2 == 0 { 1.0 } else { -1.0 };
        }
        x[3 * cols - 1] = f32::NAN;
        x[3 * cols] = f32::INFINITY;
    }
    x
}

fn assert_quantized(input: &Activations, x: &[f32], cols: usize, what: &str) {
    let tokens = x.len() / cols;
    let quantized = input.kept.get().expect("a product has asked for them");
    let bytes = quantized.read().unwrap();
    let places = Fp8Activations::new(0, tokens, cols);
    let scales = &bytes[places.scales as usize..];
    for (token, values) in x.chunks_exact(cols).enumerate() {
        let mut codes = vec![0; cols];
        let scale = quantize_row(values, &mut codes);
        let found = f32::from_ne_bytes(scales[4 * token..][..4].try_into().unwrap());
        assert!(
            found.to_bits() == scale.to_bits() || (found.is_nan() && scale.is_nan()),
            "{what}, token {token}: scale {found:e}, expected {scale:e}"
        );
        let row = &bytes[token * places.pitch..][..places.pitch];
        for (col, (found, code)) in row.iter().zip(&codes).enumerate() {
            // The sign of a NaN has no meaning.
            assert!(
                found == code || (found & 0x7f == 0x7f && code & 0x7f == 0x7f),
                "{what}, token {token}, column {col}: {} / {scale:e} became {found:#x}, expected {code:#x}",
                values[col]
            );
        }
        assert!(row[cols..].iter().all(|code| *code == 0), "{what}, token {token}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_e4m3_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(21);
        for (rows, cols, biased) in [
            (128, 320, false),
            (48, 64, true),
            (37, 100, true),
            (33, 7, false),
            (16, 17_000, false),
            (256, 768, true),
            (1008, 3072, false),
        ] {
            let (codes, scales) = weight(&mut random, rows, cols);
            let bias = biased.then(|| random.values(rows, precision));
            let linear = load(&mut ops, (&codes, &scales), cols, bias.as_deref());
            for tokens in [1, 2, 5, 16, 17, 70, 300] {
                let what = format!("{precision} {tokens} {rows} x {cols} biased {biased}");
                let x = inputs(&mut random, tokens, cols, precision);
                let truth: Vec<f64> = product(&x, cols, &codes, &scales)
                    .into_iter()
                    .enumerate()
                    .map(|(index, value)| {
                        let bias = bias.as_ref().map_or(0.0, |bias| bias[index % rows]);
                        f64::from(value) + f64::from(bias)
                    })
                    .collect();
                let input = activations(&ops, &x, cols);
                let out = read(&ops, &ops.linear(&input, &linear).unwrap());
                assert_quantized(&input, &x, cols, &what);
                let mut wide = vec![f32::NAN; tokens * rows];
                ops.project(&input, &linear, &mut wide).unwrap();
                for (values, tolerance) in [(&out, rounding(precision) + SUMS), (&wide, SUMS)] {
                    for (token, (values, truth)) in values
                        .chunks_exact(rows)
                        .zip(truth.chunks_exact(rows))
                        .enumerate()
                    {
                        let what = format!("{what}, token {token}");
                        if truth.iter().any(|value| value.is_nan()) {
                            assert!(values.iter().all(|value| value.is_nan()), "{what}: {values:?}");
                        } else {
                            assert_close(values, truth, tolerance, &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_one_input_share_its_codes_until_it_changes() {
    let mut ops = ops(DType::BF16);
    let mut random = Random(22);
    let (tokens, rows, cols) = (9, 64, 96);
    let (codes, scales) = weight(&mut random, rows, cols);
    let linear = load(&mut ops, (&codes, &scales), cols, None);
    let x = random.values(tokens * cols, DType::BF16);
    let y = random.values(tokens * cols, DType::BF16);
    let input = activations(&ops, &x, cols);
    let first = read(&ops, &ops.linear(&input, &linear).unwrap());
    let again = read(&ops, &ops.linear(&input, &linear).unwrap());
    assert_eq!(first, again);
    let sum = ops.add(input, &activations(&ops, &y, cols)).unwrap();
    let after = read(&ops, &ops.linear(&sum, &linear).unwrap());
    let fresh = activations(&ops, &read(&ops, &sum), cols);
    assert_eq!(after, read(&ops, &ops.linear(&fresh, &linear).unwrap()));
    assert_ne!(after, first);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_gated_product_is_that_of_its_steps() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(23);
        for (tokens, width, inner) in [(1, 64, 96), (33, 40, 70), (5, 32, 20_000)] {
            let mut projection = || {
                let values = random.values(inner * width, precision);
                ops.load_linear(Box::new(dense(inner, width, precision, &values)), None)
                    .unwrap()
                    .value
            };
            let (gate, up) = (projection(), projection());
            let (codes, scales) = weight(&mut random, width, inner);
            let down = load(&mut ops, (&codes, &scales), inner, None);
            let x = activations(&ops, &random.values(tokens * width, precision), width);
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
            assert_eq!(
                read(&ops, &at_once),
                read(&ops, &in_steps),
                "{precision} {tokens} {width} {inner}"
            );
        }
    }
}
