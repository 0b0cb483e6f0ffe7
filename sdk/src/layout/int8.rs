//! The activation side of `qbench.int8-vectorwise/1`: the reference that every kernel must agree with.
//!
//! LLM.int8() (Dettmers et al. 2022, <https://arxiv.org/abs/2208.07339>) as bitsandbytes 0.50 computes it. A product
//! `X · Wᵀ` with `X` `[tokens, cols]` and stored `W` `[rows, cols]` is the sum of two parts:
//!
//! 1. [`quantize_activations`], [`product_i32`](QuantizedActivations::product_i32) and
//!    [`dequantize`](QuantizedActivations::dequantize): everything but the outlier columns, exact in integers, each float
//!    operation named, so this part is the same bits everywhere;
//! 2. the outlier columns: those columns of `X`, whole and in `X`'s own type, times the same columns of the
//!    [decoded](super::decode) weight rounded to that type. It is an ordinary float product, whose last bits depend on
//!    the order of its sums.
//!
//! Part 1 is rounded to `X`'s type before part 2 is added.

use half::{f16, slice::HalfFloatSliceExt};

use crate::{Error, Result};

/// f32(1 / 127²): turns a product of two codes, times both scales, into a value.
///
/// bitsandbytes uses this constant on CUDA; its CPU code says 6.200124e-5, a slip in the fifth digit.
pub const PRODUCT_STEP: f32 = 1.0 / (127.0 * 127.0);

/// The widest matrix whose products cannot overflow an i32: `⌊(2³¹ - 1) / 127²⌋`.
pub const MAX_COLS: usize = (i32::MAX / (127 * 127)) as usize;

/// The activations of one call, quantised a token at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedActivations {
    /// `[tokens, cols]`, in -127..=127; 0 in every outlier column.
    pub codes: Vec<i8>,
    /// `[tokens]`: the largest absolute value of the token that is not an outlier.
    pub scales: Vec<f32>,
    /// Columns in which any token of this call has an outlier, ascending.
    pub outlier_columns: Vec<usize>,
    cols: usize,
}

/// Rounds values to f16 (nearest even), which is what LLM.int8() quantises, and widens them again.
pub fn round_to_f16(values: &mut [f32]) {
    const CHUNK: usize = 256;
    let mut halves = [f16::ZERO; CHUNK];
    for chunk in values.chunks_mut(CHUNK) {
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(chunk);
        halves.convert_to_f32_slice(chunk);
    }
}

/// Scale and codes of one row of f16 values (see [`round_to_f16`]), for activations and weights alike.
///
/// `scale = max |x|` and `code = round_half_even(f32(x · f32(f32(1 / scale) · 127)))`. A row of zeros has scale 0 and
/// codes 0; a row with a NaN or an infinity has that scale and codes 0. Source: bitsandbytes `int8_vectorwise_quant`.
///
/// # Panics
/// When `codes` is not as long as `values`.
// Inlined, so that a caller's vector instructions are used.
#[inline]
pub fn quantize_row(values: &[f32], codes: &mut [i8]) -> f32 {
    assert_eq!(values.len(), codes.len(), "one code for each value");
    // Magnitudes are ordered as their bits are, with NaN above infinity: a NaN anywhere becomes the scale.
    let bits = values
        .iter()
        .fold(0, |max, value| value.abs().to_bits().cast_signed().max(max));
    let scale = f32::from_bits(bits.cast_unsigned());
    let factor = (1.0 / scale) * 127.0;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = round_half_even(value * factor);
    }
    scale
}

/// Rounds a value of magnitude below 2^22 to an integer, and a NaN to 0, in a way that compiles to vector instructions.
#[inline]
fn round_half_even(value: f32) -> i8 {
    // Between 2^23 and 2^24 the f32 values are the integers: the addition rounds, and leaves the integer in the low bits.
    // Those of a NaN are 0, unless it carried a payload that no f16 has.
    (value + 1.5 * (1 << 23) as f32).to_bits() as i8
}

/// Quantises the activations of one call: `input` is `[tokens, cols]`, all sequences of the call together.
///
/// Values are rounded to f16 first. An element with `|x| ≥ threshold` is an outlier; a threshold of 0 means none.
/// Outliers do not count for their token's scale, but the other elements of an outlier column do.
///
/// # Errors
/// [`Error::InvalidArgument`] when `input` is not `tokens · cols` long, [`Error::Unsupported`] for more than
/// [`MAX_COLS`] columns.
pub fn quantize_activations(
    input: &[f32],
    tokens: usize,
    cols: usize,
    threshold: f32,
) -> Result<QuantizedActivations> {
    if tokens.checked_mul(cols) != Some(input.len()) {
        return Err(Error::InvalidArgument(format!(
            "activations: expected {tokens} x {cols} values, found {}",
            input.len()
        )));
    }
    if cols > MAX_COLS {
        return Err(Error::Unsupported(format!(
            "int8 products over {cols} columns: sums over more than {MAX_COLS} may not fit into 32 bits"
        )));
    }
    let mut codes = vec![0_i8; input.len()];
    let mut scales = vec![0.0; tokens];
    let mut has_outlier = vec![false; cols];
    let mut values = vec![0.0; cols];
    for (token, scale) in scales.iter_mut().enumerate() {
        let row = token * cols..(token + 1) * cols;
        values.copy_from_slice(&input[row.clone()]);
        round_to_f16(&mut values);
        if threshold > 0.0 {
            for (value, has_outlier) in values.iter_mut().zip(&mut has_outlier) {
                if value.abs() >= threshold {
                    *has_outlier = true;
                    *value = 0.0;
                }
            }
        }
        *scale = quantize_row(&values, &mut codes[row]);
    }
    let outlier_columns: Vec<usize> = (0..cols).filter(|col| has_outlier[*col]).collect();
    for token in 0..tokens {
        for col in &outlier_columns {
            codes[token * cols + col] = 0;
        }
    }
    Ok(QuantizedActivations {
        codes,
        scales,
        outlier_columns,
        cols,
    })
}

impl QuantizedActivations {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.scales.len()
    }

    /// Number of columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The exact product `codes · weight_codesᵀ`, `[tokens, rows]`, for `weight_codes` `[rows, cols]`.
    ///
    /// # Panics
    /// When `weight_codes` is not `rows · cols` long.
    pub fn product_i32(&self, weight_codes: &[i8], rows: usize) -> Vec<i32> {
        assert_eq!(
            weight_codes.len(),
            rows * self.cols,
            "weight codes of {rows} rows"
        );
        let mut product = Vec::with_capacity(self.tokens() * rows);
        for token in 0..self.tokens() {
            let codes = &self.codes[token * self.cols..(token + 1) * self.cols];
            for row in 0..rows {
                let weights = &weight_codes[row * self.cols..(row + 1) * self.cols];
                product.push(
                    codes
                        .iter()
                        .zip(weights)
                        .map(|(x, w)| i32::from(*x) * i32::from(*w))
                        .sum(),
                );
            }
        }
        product
    }

    /// The product's values, `[tokens, rows]`, to be rounded once to the type of the activations:
    /// `f32(f32(f32(product) · f32(scale · weight_scale)) · PRODUCT_STEP) + bias`, the bias added in f32.
    ///
    /// # Panics
    /// When `product` is not `tokens · rows` long or `bias` not `rows`, `rows` being the number of weight scales.
    pub fn dequantize(&self, product: &[i32], weight_scales: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let rows = weight_scales.len();
        assert_eq!(product.len(), self.tokens() * rows, "a product of {rows} rows");
        assert!(
            bias.is_none_or(|bias| bias.len() == rows),
            "a bias of {rows} rows"
        );
        let mut values = Vec::with_capacity(product.len());
        for (token, scale) in self.scales.iter().enumerate() {
            for (row, weight_scale) in weight_scales.iter().enumerate() {
                let value = product[token * rows + row] as f32 * (scale * weight_scale) * PRODUCT_STEP;
                values.push(bias.map_or(value, |bias| value + bias[row]));
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_is_that_of_bitsandbytes_on_cuda() {
        assert_eq!(PRODUCT_STEP, 6.200_012_285_262_346e-5_f64 as f32);
        // The largest magnitude of a sum over MAX_COLS columns fits; over one more it does not.
        assert_eq!(MAX_COLS, 133_144);
        assert!(127_i64 * 127 * (MAX_COLS as i64 + 1) > i64::from(i32::MAX));
    }

    #[test]
    fn halves_round_to_even_and_odd_rows_have_no_codes() {
        // 127 / 2 = 63.5 is a tie and goes to 64.
        let mut codes = [9; 4];
        assert_eq!(quantize_row(&[2.0, 1.0, -1.0, 0.0], &mut codes), 2.0);
        assert_eq!(codes, [127, 64, -64, 0]);
        assert_eq!(quantize_row(&[0.0; 4], &mut codes), 0.0);
        assert_eq!(codes, [0; 4]);
        assert!(quantize_row(&[1.0, f32::NAN, -2.0, f32::INFINITY], &mut codes).is_nan());
        assert_eq!(codes, [0; 4]);
        assert_eq!(
            quantize_row(&[1.0, f32::NEG_INFINITY, 2.0, 0.0], &mut codes),
            f32::INFINITY
        );
        assert_eq!(codes, [0; 4]);
    }

    #[test]
    fn rounding_is_that_of_the_standard_library() {
        for sixteenth in -127 * 16..=127 * 16 {
            let value = sixteenth as f32 / 16.0;
            for value in [value.next_down(), value, value.next_up()] {
                assert_eq!(round_half_even(value), value.round_ties_even() as i8, "{value}");
            }
        }
    }

    #[test]
    fn values_are_those_of_f16() {
        // 2049 lies between the f16 values 2048 and 2050, 5.999 nearer to 6 than to 5.996.
        let mut values = [2049.0, 5.999, 65536.0, -1.0e-9];
        round_to_f16(&mut values);
        assert_eq!(values, [2048.0, 6.0, f32::INFINITY, 0.0]);
    }

    #[test]
    fn outliers_leave_the_codes_but_their_column_counts_for_the_scale() {
        // Token 0 has an outlier in column 0; token 1's largest value lies in that column and is no outlier.
        let input = [6.0, 1.0, 0.5, 4.0, 2.0, 1.0];
        let quantized = quantize_activations(&input, 2, 3, 6.0).unwrap();
        assert_eq!(quantized.outlier_columns, [0]);
        assert_eq!(quantized.scales, [1.0, 4.0]);
        // 127 / 2 = 63.5 goes to 64; 127 / 4 = 31.75 to 32.
        assert_eq!(quantized.codes, [0, 127, 64, 0, 64, 32]);
        let product = quantized.product_i32(&[1, 2, 3, 0, 0, -1], 2);
        assert_eq!(product, [127 * 2 + 64 * 3, -64, 64 * 2 + 32 * 3, -32]);
        let values = quantized.dequantize(&product, &[2.0, 1.0], Some(&[0.5, 0.0]));
        assert_eq!(
            values,
            [
                446.0 * 2.0 * PRODUCT_STEP + 0.5,
                -64.0 * PRODUCT_STEP,
                224.0 * 8.0 * PRODUCT_STEP + 0.5,
                -128.0 * PRODUCT_STEP
            ]
        );
        let all = quantize_activations(&input, 2, 3, 0.0).unwrap();
        assert!(all.outlier_columns.is_empty());
        assert_eq!(all.scales, [6.0, 4.0]);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(quantize_activations(&[0.0; 5], 2, 3, 6.0).is_err());
        assert!(quantize_activations(&vec![0.0; MAX_COLS + 1], 1, MAX_COLS + 1, 6.0).is_err());
        assert!(quantize_activations(&[], 0, 3, 6.0).unwrap().codes.is_empty());
    }
}
