//! The sdk's reference of LLM.int8()'s activation side against bitsandbytes.

use crate::golden::{FLOATS, Golden, cast, f32_bytes, json};
use qbench_sdk::{
    DType,
    layout::int8::{QuantizedActivations, quantize_activations},
    widen,
};

/// The constant in bitsandbytes' CPU code, where 1 / 127² = 6.200012e-5 is meant.
const BITSANDBYTES_CPU_STEP: f32 = 6.200_124e-5;

fn i8s(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().map(|byte| byte.cast_signed()).collect()
}

/// Values rounded to a type, widened again.
fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    let mut back = vec![0.0; values.len()];
    widen(&cast(values, dtype), dtype, &mut back).unwrap();
    back
}

#[test]
fn codes_scales_and_outlier_columns_are_those_of_bitsandbytes() {
    let golden = Golden::open("int8_act.safetensors");
    let items = json("manifest.json")["cases"]["int8_act"]["items"].clone();
    assert_eq!(items.as_object().unwrap().len(), 5);
    for (case, item) in items.as_object().unwrap() {
        let threshold = item["threshold"].as_f64().unwrap() as f32;
        let (tokens, cols) = golden.shape(&format!("{case}.x"));
        let input = golden.floats(&format!("{case}.x"));
        let quantized = quantize_activations(&input, tokens, cols, threshold).unwrap();
        assert_eq!(
            quantized.codes,
            i8s(&golden.bytes(&format!("{case}.CA"))),
            "{case}"
        );
        assert_eq!(
            f32_bytes(&quantized.scales),
            golden.bytes(&format!("{case}.SCA")),
            "{case}"
        );
        let columns: Vec<i64> = quantized.outlier_columns.iter().map(|col| *col as i64).collect();
        assert_eq!(columns, golden.i64s(&format!("{case}.cols")), "{case}");
        assert_eq!(columns.len() as u64, item["ncols"].as_u64().unwrap(), "{case}");
    }
}

/// Weight, input and what becomes of them in one of the cases of `matmul.safetensors`.
struct Case {
    activations: QuantizedActivations,
    input: Vec<f32>,
    weight_codes: Vec<i8>,
    weight_scales: Vec<f32>,
    product: Vec<i32>,
}

fn multiply(golden: &Golden, input: &str, name: &str, dtype: DType) -> Case {
    let (tokens, cols) = golden.shape(input);
    let input = rounded(&golden.floats(input), dtype);
    let activations = quantize_activations(&input, tokens, cols, 6.0).unwrap();
    let weight_codes = i8s(&golden.bytes(&format!("int8.{name}.CB")));
    let weight_scales = golden.floats(&format!("int8.{name}.SCB"));
    let product = activations.product_i32(&weight_codes, weight_scales.len());
    Case {
        activations,
        input,
        weight_codes,
        weight_scales,
        product,
    }
}

impl Case {
    /// What bitsandbytes' CPU code makes of the integers: the reference but for the constant.
    fn with_cpu_constant(&self, bias: Option<&[f32]>) -> Vec<f32> {
        let rows = self.weight_scales.len();
        self.product
            .iter()
            .enumerate()
            .map(|(index, product)| {
                let scale = self.activations.scales[index / rows] * self.weight_scales[index % rows];
                let value = *product as f32 * scale * BITSANDBYTES_CPU_STEP;
                bias.map_or(value, |bias| value + bias[index % rows])
            })
            .collect()
    }
}

#[test]
fn the_integer_product_is_exact() {
    let golden = Golden::open("matmul.safetensors");
    for input in ["X", "Xo"] {
        let result = multiply(&golden, input, "f32", DType::F32);
        assert_eq!(
            result.activations.codes,
            i8s(&golden.bytes(&format!("int8.{input}.CA"))),
            "{input}"
        );
        assert_eq!(
            f32_bytes(&result.activations.scales),
            golden.bytes(&format!("int8.{input}.SCA")),
            "{input}"
        );
        assert_eq!(
            result.product,
            golden.i32s(&format!("int8.{input}.C_i32")),
            "{input}"
        );
    }
}

#[test]
fn outputs_without_outliers_differ_from_bitsandbytes_by_its_cpu_constant_only() {
    let golden = Golden::open("matmul.safetensors");
    let bias = golden.floats("bias");
    for (name, dtype) in FLOATS {
        let result = multiply(&golden, "X", name, dtype);
        assert!(result.activations.outlier_columns.is_empty());
        let bias = rounded(&bias, dtype);
        for (bias, suffix) in [(None, "X.out"), (Some(&bias[..]), "X.bias.out")] {
            let expected = golden.bytes(&format!("int8.{name}.{suffix}"));
            assert_eq!(
                cast(&result.with_cpu_constant(bias), dtype),
                expected,
                "{name} {suffix}"
            );
        }
        let ours = result
            .activations
            .dequantize(&result.product, &result.weight_scales, None);
        let theirs = result.with_cpu_constant(None);
        let ratio = 1.0 / (127.0 * 127.0) / f64::from(BITSANDBYTES_CPU_STEP);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            // The constant and the last product of either are rounded once, each by at most 2^-24.
            let expected = f64::from(*theirs) * ratio;
            assert!(
                (f64::from(*ours) - expected).abs() <= expected.abs() * 2.0_f64.powi(-22),
                "{ours} {expected}"
            );
        }
        let with_bias = result
            .activations
            .dequantize(&result.product, &result.weight_scales, Some(&bias));
        for (index, (with, without)) in with_bias.iter().zip(&ours).enumerate() {
            assert_eq!(*with, without + bias[index % bias.len()]);
        }
    }
}

/// Part 2 of the kind's definition, summed in f64.
fn outlier_part(result: &Case, token: usize, row: usize, dtype: DType) -> (f64, f64) {
    let cols = result.activations.cols();
    let terms = result.activations.outlier_columns.iter().map(|col| {
        let weight =
            f32::from(result.weight_codes[row * cols + col]) * result.weight_scales[row] * (1.0 / 127.0);
        f64::from(result.input[token * cols + col]) * f64::from(rounded(&[weight], dtype)[0])
    });
    terms.fold((0.0, 0.0), |(sum, magnitude), term| {
        (sum + term, magnitude + term.abs())
    })
}

#[test]
fn outlier_columns_are_multiplied_in_the_input_type() {
    let golden = Golden::open("matmul.safetensors");
    for (name, dtype) in FLOATS {
        // One rounding of the integer part, one of the sum, and a few of the outliers' own sum, each half a unit in
        // the last place of the type: 2^-24, 2^-8 and 2^-11 of what is added up.
        let unit = match dtype {
            DType::F32 => 2.0_f64.powi(-22),
            DType::BF16 => 2.0_f64.powi(-7),
            _ => 2.0_f64.powi(-10),
        };
        let result = multiply(&golden, "Xo", name, dtype);
        assert_eq!(result.activations.outlier_columns, [3, 77, 100]);
        let integer_part = rounded(&result.with_cpu_constant(None), dtype);
        let expected = golden.floats(&format!("int8.{name}.Xo.out"));
        let rows = result.weight_scales.len();
        for (index, expected) in expected.iter().enumerate() {
            let (outliers, magnitude) = outlier_part(&result, index / rows, index % rows, dtype);
            let value = f64::from(integer_part[index]) + outliers;
            let bound = (f64::from(integer_part[index]).abs() + magnitude) * unit;
            assert!(
                (value - f64::from(*expected)).abs() <= bound,
                "{name} {index}: {value} {expected}"
            );
        }
    }
}
