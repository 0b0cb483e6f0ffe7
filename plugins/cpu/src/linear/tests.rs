//! Products against their definition in f64 over the reference decoder's weights.

use qbench_sdk::layout::{
    BlockCodebook, Blocks, Custom, Int8Vectorwise, NibbleOrder, Scale, ScaledFp8, fp8,
    int8::{self, quantize_activations},
};

use qbench_sdk::AlignedBuffer;

use super::*;
use crate::tests::support::{MemoryTensor, Random, all_kernels, assert_close};

/// Sums of a few hundred products of size 0.1 in f32 stay far within this; one wrong weight does not.
const SUM_TOLERANCE: f64 = 5e-5;

fn naive(x: &[f32], weights: &[f32], bias: Option<&[f32]>, cols: usize) -> Vec<f64> {
    let rows = weights.len() / cols;
    x.chunks_exact(cols)
        .flat_map(|x| (0..rows).map(move |row| (x, row)))
        .map(|(x, row)| {
            let weights = &weights[row * cols..(row + 1) * cols];
            let dot: f64 = x
                .iter()
                .zip(weights)
                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                .sum();
            dot + bias.map_or(0.0, |bias| f64::from(bias[row]))
        })
        .collect()
}

fn load(tensor: &MemoryTensor, bias: Option<Vec<f32>>, precision: DType, kernels: Kernels) -> Loaded<Linear> {
    Linear::load(tensor.boxed(), bias, precision, kernels).unwrap()
}

fn forward(linear: &Linear, x: &[f32], rounding: DType) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / linear.cols() * linear.rows()];
    linear.forward(x, &mut out, rounding).unwrap();
    out
}

/// Product without rounding, and every row as an embedding, against the reference decoder.
fn check(tensor: &MemoryTensor, precision: DType, tokens: usize, random: &mut Random) {
    let what = format!("{:?} in {precision}, {tokens} tokens", tensor.layout);
    let (rows, cols) = (tensor.layout.rows(), tensor.layout.cols());
    let weights = tensor.decoded(precision);
    let bias = random.normal(rows, 1.0);
    let mut x = random.normal(tokens * cols, 1.0);
    round(&mut x, precision);
    let truth = naive(&x, &weights, Some(&bias), cols);
    for kernels in all_kernels() {
        let what = format!("{what} by {kernels:?}");
        let linear = load(tensor, Some(bias.clone()), precision, kernels).value;
        assert_close(&forward(&linear, &x, DType::F32), &truth, SUM_TOLERANCE, &what);
        let mut row = vec![0.0; cols];
        for index in [0, rows / 2, rows - 1] {
            linear.read_row(index, &mut row).unwrap();
            assert_eq!(
                row,
                weights[index * cols..(index + 1) * cols],
                "row {index} of {what}"
            );
        }
    }
}

#[test]
fn dense_weights_of_any_type_in_any_precision() {
    let mut random = Random::new(1);
    for (rows, cols, tokens) in [(1, 1, 1), (300, 96, 3), (130, 37, 600), (70, 64, 13)] {
        let values = random.normal(rows * cols, 0.1);
        for stored in [DType::F32, DType::F16, DType::BF16] {
            for precision in [DType::F32, DType::F16, DType::BF16] {
                let tensor = MemoryTensor::dense(rows, cols, stored, &values);
                check(&tensor, precision, tokens, &mut random);
            }
        }
    }
}

#[test]
fn codebook_weights_of_any_shape_and_choice() {
    let mut random = Random::new(2);
    for (rows, cols, block, tokens) in [
        (1, 1, 64, 1),
        (200, 64, 64, 40),
        (131, 37, 64, 5),
        (70, 160, 32, 3),
        (9, 100, 32, 2),
        (7, 13, 3, 1),
    ] {
        for (bits, order) in [
            (4, NibbleOrder::HighFirst),
            (4, NibbleOrder::LowFirst),
            (8, NibbleOrder::HighFirst),
        ] {
            for blocks in [Blocks::Flat, Blocks::PerRow] {
                for scale in [Scale::F32, Scale::Coded { block: 5 }] {
                    let layout = Layout::BlockCodebook(BlockCodebook {
                        rows,
                        cols,
                        bits,
                        order,
                        blocks,
                        block,
                        scale,
                    });
                    let tensor = MemoryTensor::random(layout, &mut random);
                    for precision in [DType::F32, DType::BF16] {
                        check(&tensor, precision, tokens, &mut random);
                    }
                }
            }
        }
    }
}

#[test]
fn decoded_rows_are_the_references_bits() {
    use super::{codebook::CodebookWeight, rows::Rows};
    let mut random = Random::new(4);
    for (cols, blocks) in [(37, Blocks::Flat), (64, Blocks::Flat), (37, Blocks::PerRow)] {
        let layout = BlockCodebook {
            rows: 50,
            cols,
            bits: 4,
            order: NibbleOrder::HighFirst,
            blocks,
            block: 64,
            scale: Scale::Coded { block: 256 },
        };
        let tensor = MemoryTensor::random(Layout::BlockCodebook(layout.clone()), &mut random);
        for (precision, kernels) in [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .flat_map(|precision| all_kernels().into_iter().map(move |kernels| (precision, kernels)))
        {
            let truth = &tensor.decoded(precision)[3 * cols..49 * cols];
            let weight = CodebookWeight::new(tensor.boxed(), layout.clone(), precision, kernels);
            let mut scratch = vec![9; 3];
            let bytes = weight.rows(3..49, Operand::F32, &mut scratch).unwrap();
            assert_eq!(floats(bytes), truth);
            if precision == DType::BF16 {
                let bytes = weight.rows(3..49, Operand::Bf16, &mut scratch).unwrap();
                let mut values = vec![0.0; truth.len()];
                qbench_sdk::widen(bytes, precision, &mut values).unwrap();
                assert_eq!(values, truth);
            }
        }
    }
}

/// The reference of the kind, in two parts, as its documentation says.
fn int8_reference(tensor: &MemoryTensor, x: &[f32], bias: &[f32], precision: DType) -> (Vec<f32>, Vec<f64>) {
    let (rows, cols) = (tensor.layout.rows(), tensor.layout.cols());
    let tokens = x.len() / cols;
    let codes: Vec<i8> = tensor.buffers[0].iter().map(|byte| *byte as i8).collect();
    let threshold = floats(&tensor.buffers[2])[0];
    let activations = quantize_activations(x, tokens, cols, threshold).unwrap();
    let product = activations.product_i32(&codes, rows);
    let mut first = activations.dequantize(&product, &floats(&tensor.buffers[1]), Some(bias));
    round(&mut first, precision);
    let weights = tensor.decoded(precision);
    let mut second = vec![0.0; tokens * rows];
    for token in 0..tokens {
        for row in 0..rows {
            second[token * rows + row] = activations
                .outlier_columns
                .iter()
                .map(|col| f64::from(x[token * cols + col]) * f64::from(weights[row * cols + col]))
                .sum();
        }
    }
    (first, second)
}

#[test]
fn int8_is_the_reference_bit_for_bit_where_that_is_defined() {
    let mut random = Random::new(5);
    // 2500 columns need three exact pieces.
    for (rows, cols, tokens, spread) in [
        (5, 7, 1, 1.0),
        (150, 2500, 40, 1.0),
        (300, 96, 600, 1.6),
        (33, 200, 1, 4.0),
    ] {
        for (precision, kernels) in [DType::F32, DType::BF16]
            .into_iter()
            .flat_map(|precision| all_kernels().into_iter().map(move |kernels| (precision, kernels)))
        {
            let mut tensor =
                MemoryTensor::random(Layout::Int8Vectorwise(Int8Vectorwise { rows, cols }), &mut random);
            tensor.buffers[2] = AlignedBuffer::from_bytes(&6.0_f32.to_le_bytes());
            let bias = random.normal(rows, 0.5);
            let mut x = random.normal(tokens * cols, spread);
            round(&mut x, precision);
            let linear = load(&tensor, Some(bias.clone()), precision, kernels).value;
            let out = forward(&linear, &x, precision);
            let (first, second) = int8_reference(&tensor, &x, &bias, precision);
            if second.iter().all(|value| *value == 0.0) {
                assert_eq!(
                    out, first,
                    "{rows} x {cols}, {tokens} tokens in {precision} by {kernels:?}"
                );
                continue;
            }
            // A bf16 result may fall on either side of a tie by the order of its sum: one step of 2^-8 at most.
            let step = if precision == DType::F32 {
                1e-6
            } else {
                1.0 / 128.0
            };
            for ((out, first), second) in out.iter().zip(&first).zip(&second) {
                let truth = f64::from(*first) + second;
                assert!(
                    (f64::from(*out) - truth).abs() <= step * truth.abs().max(1.0),
                    "{out} {truth}"
                );
            }
        }
    }
    assert_eq!(int8::MAX_COLS, 133_144, "what the refusal's message says");
}

#[test]
fn fp8_is_the_reference_bit_for_bit() {
    let mut random = Random::new(7);
    for (rows, cols, tokens) in [(1, 1, 1), (5, 7, 3), (150, 2500, 40), (300, 96, 1100)] {
        let layout = Layout::ScaledFp8(ScaledFp8 { rows, cols });
        let mut tensor = MemoryTensor::random(layout, &mut random);
        // No NaN among the codes: it would hide everything else.
        for code in tensor.buffers[0].iter_mut() {
            *code = if *code & 0x7f == 0x7f { 0x7e } else { *code };
        }
        let bias = random.normal(rows, 0.5);
        for precision in [DType::F32, DType::BF16] {
            let mut x = random.normal(tokens * cols, 1.0);
            round(&mut x, precision);
            let loaded = load(&tensor, Some(bias.clone()), precision, Kernels::Reference);
            let kernel = "exact e4m3 product".to_owned();
            assert_eq!(loaded.execution, Execution::Native { kernel });
            let mut truth = fp8::product(&x, cols, &tensor.buffers[0], &floats(&tensor.buffers[1]));
            for row in truth.chunks_exact_mut(rows) {
                for (value, bias) in row.iter_mut().zip(&bias) {
                    *value += bias;
                }
            }
            round(&mut truth, precision);
            let out = forward(&loaded.value, &x, precision);
            assert_eq!(out, truth, "{rows} x {cols}, {tokens} tokens in {precision}");
            let mut row = vec![0.0; cols];
            loaded.value.read_row(rows - 1, &mut row).unwrap();
            assert_eq!(row, tensor.decoded(precision)[(rows - 1) * cols..]);
        }
    }
}

#[test]
fn custom_layouts_use_the_schemes_product_or_its_floats() {
    let mut random = Random::new(6);
    let (rows, cols) = (140, 24);
    for has_product in [true, false] {
        let tensor = MemoryTensor {
            layout: Layout::Custom(Custom {
                kind: "org.example.floats/1".to_owned(),
                rows,
                cols,
                buffers: Vec::new(),
                parameters: serde_json::Value::Null,
            }),
            buffers: Vec::new(),
            custom: Some((random.normal(rows * cols, 0.1), has_product)),
        };
        let loaded = load(&tensor, None, DType::F32, Kernels::Reference);
        let expected = if has_product {
            Execution::SchemeMatmul
        } else {
            Execution::Dequantize {
                to: DType::F32,
                when: DequantizeWhen::Forward,
            }
        };
        assert_eq!(loaded.execution, expected);
        let x = random.normal(5 * cols, 1.0);
        let truth = naive(&x, &tensor.decoded(DType::F32), None, cols);
        assert_close(
            &forward(&loaded.value, &x, DType::F32),
            &truth,
            SUM_TOLERANCE,
            "custom",
        );
    }
}

#[test]
fn bytes_are_those_held_and_broken_tensors_are_refused() {
    let dense = MemoryTensor::dense(3, 5, DType::BF16, &[0.5; 15]);
    assert_eq!(load(&dense, None, DType::BF16, Kernels::Reference).bytes, 30);
    assert_eq!(load(&dense, None, DType::F32, Kernels::Reference).bytes, 60);
    let mut short = MemoryTensor::dense(3, 5, DType::F32, &[0.5; 15]);
    short.buffers[0] = AlignedBuffer::zeroed(59);
    let error = Linear::load(short.boxed(), None, DType::F32, Kernels::Reference)
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("expected 60 bytes, found 59"),
        "{error}"
    );
    let integers = MemoryTensor::random(
        Layout::Dense(qbench_sdk::layout::Dense {
            rows: 2,
            cols: 2,
            dtype: DType::U8,
        }),
        &mut Random::new(1),
    );
    assert!(Linear::load(integers.boxed(), None, DType::F32, Kernels::Reference).is_err());
}

/// Linear8bitLt at its edges, as bitsandbytes computes it on a CPU (tests/fixtures/bitsandbytes/int8_linear.py).
#[test]
fn int8_edges_are_bitsandbytes() {
    /// What bitsandbytes' CPU code says for 1 / 127^2.
    const BITSANDBYTES_CPU_STEP: f64 = 6.200_124e-5;
    let file = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/bitsandbytes/int8_linear.safetensors"
    ))
    .unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let bytes = |name: String| file.tensor(&name).unwrap().data().to_vec();
    for (kernels, layer, case, threshold) in all_kernels()
        .into_iter()
        .flat_map(|kernels| ["odd", "wide"].map(move |layer| (kernels, layer)))
        .flat_map(|(kernels, layer)| {
            [
                ("batch", 6.0_f32),
                ("single", 6.0),
                ("single_outlier", 6.0),
                ("row", 6.0),
                ("off", 0.0),
            ]
            .map(move |(case, threshold)| (kernels, layer, case, threshold))
        })
    {
        let (codes, scales) = (bytes(format!("{layer}.CB")), bytes(format!("{layer}.SCB")));
        let rows = scales.len() / 4;
        let cols = codes.len() / rows;
        let tensor = MemoryTensor {
            layout: Layout::Int8Vectorwise(Int8Vectorwise { rows, cols }),
            buffers: [&codes[..], &scales, &threshold.to_le_bytes()]
                .map(AlignedBuffer::from_bytes)
                .into(),
            custom: None,
        };
        let bias = floats(&bytes(format!("{layer}.bias")));
        let x = floats(&bytes(format!("{layer}.{case}.x")));
        // In f32 the order of the outliers' sums, which is another for each instruction set and whose terms cancel; in the
        // others a last bit of either rounding as well.
        for (name, precision, tolerance) in [
            ("f32", DType::F32, 4e-6),
            ("f16", DType::F16, 2.0 / 2048.0),
            ("bf16", DType::BF16, 2.0 / 256.0),
        ] {
            let out = forward(
                &load(&tensor, Some(bias.clone()), precision, kernels).value,
                &x,
                precision,
            );
            let theirs = floats(&bytes(format!("{layer}.{case}.{name}")));
            let quantized = quantize_activations(&x, x.len() / cols, cols, threshold).unwrap();
            let codes: Vec<i8> = codes.iter().map(|code| *code as i8).collect();
            let integers = quantized.dequantize(&quantized.product_i32(&codes, rows), &floats(&scales), None);
            for (index, (value, theirs)) in out.iter().zip(&theirs).enumerate() {
                // Their constant makes the integers' part larger.
                let excess = BITSANDBYTES_CPU_STEP / f64::from(int8::PRODUCT_STEP) - 1.0;
                let expected = f64::from(*theirs) - f64::from(integers[index]) * excess;
                let size = expected.abs().max(f64::from(integers[index]).abs()).max(1.0);
                assert!(
                    (f64::from(*value) - expected).abs() <= tolerance * size,
                    "{layer}.{case} in {name}, element {index}: {value} is not {expected}"
                );
            }
        }
    }
}
