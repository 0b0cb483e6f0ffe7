//! e4m3 numbers, and the activation side of `qbench.scaled-fp8/1`: the reference that every kernel must agree with.
//!
//! e4m3 is the 8-bit float of the OCP 8-bit Floating Point Specification (OFP8) 1.0, also called e4m3fn: a sign, four
//! bits of exponent with bias 7, three of mantissa; no infinities, NaN is 0x7f and 0xff, the largest number is 448.
//!
//! A product `X · Wᵀ` with `X` `[tokens, cols]` and stored `W` `[rows, cols]` is computed with weights and activations
//! in e4m3, each token with a scale of its own ([`quantize_row`]):
//! `f32(exact sum of products of codes) · f32(token scale · row scale)`. Products of two e4m3 numbers are whole multiples
//! of 2⁻¹⁸ below 2¹⁸, so f64 adds up to [`MAX_COLS`] of them exactly, in any order. Tensor cores add in f32 or less: they
//! agree to their own rounding.

/// The largest finite e4m3 number.
pub const E4M3_MAX: f32 = 448.0;

/// The widest matrix whose sums of products f64 holds exactly: `⌊2⁵³ / (448² · 2¹⁸)⌋`.
pub const MAX_COLS: usize = 171_196;

/// The number that an e4m3 code stands for.
pub const fn e4m3_to_f32(code: u8) -> f32 {
    let sign = (code as u32 & 0x80) << 24;
    let (exponent, mantissa) = ((code as u32 >> 3) & 15, code as u32 & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        // Subnormal: multiples of 2⁻⁹.
        (0, _) => mantissa as f32 * (1.0 / 512.0),
        _ => f32::from_bits(((exponent + 127 - 7) << 23) | (mantissa << 20)),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// The numbers of all 256 codes.
pub static E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = e4m3_to_f32(code as u8);
        code += 1;
    }
    values
};

/// The nearest e4m3 code, ties to even. What is larger than 448, infinities included, becomes 448; a NaN stays one.
#[inline]
pub fn f32_to_e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let magnitude = value.abs();
    let code = if magnitude.is_nan() {
        0x7f
    } else if magnitude >= E4M3_MAX {
        0x7e
    } else if magnitude < 1.0 / 64.0 {
        // Adding 1.5 · 2¹⁴, whose last bit is 2⁻⁹, rounds to a multiple of 2⁻⁹ and leaves the multiple in the low bits.
        (magnitude + 24_576.0).to_bits() as u8
    } else {
        // Rounds 23 bits of mantissa to three; a carry runs into the exponent, as it should.
        let bits = magnitude.to_bits();
        let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
        ((rounded >> 20) - ((127 - 7) << 3)) as u8
    };
    sign | code
}

/// Scale and codes of one row, for activations and weights alike: `scale = f32(max |x| / 448)` and
/// `code = e4m3(f32(x / scale))`.
///
/// A row whose scale is 0 has codes 0. A NaN in a row makes its scale NaN; an infinity makes the scale infinite, its own
/// code NaN and the others 0. Either way every product with the row is NaN.
///
/// # Panics
/// When `codes` is not as long as `values`.
#[inline]
pub fn quantize_row(values: &[f32], codes: &mut [u8]) -> f32 {
    assert_eq!(values.len(), codes.len(), "one code for each value");
    // Magnitudes are ordered as their bits are, with NaN above infinity.
    let bits = values.iter().fold(0, |max, value| value.abs().to_bits().max(max));
    let scale = f32::from_bits(bits) / E4M3_MAX;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = if scale == 0.0 {
            0
        } else {
            f32_to_e4m3(value / scale)
        };
    }
    scale
}

/// `X · Wᵀ` as the kind defines it, `[tokens, rows]`: the slow reference.
///
/// `input` is `[tokens, cols]`; `codes` and `scales` are the layout's buffers.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn product(input: &[f32], cols: usize, codes: &[u8], scales: &[f32]) -> Vec<f32> {
    assert!(
        cols > 0 && input.len().is_multiple_of(cols),
        "whole tokens of {cols} values"
    );
    assert_eq!(codes.len(), cols * scales.len(), "one code for each weight");
    let mut token_codes = vec![0; cols];
    let mut output = Vec::with_capacity(input.len() / cols * scales.len());
    for token in input.chunks_exact(cols) {
        let token_scale = quantize_row(token, &mut token_codes);
        for (codes, scale) in codes.chunks_exact(cols).zip(scales) {
            let products = token_codes
                .iter()
                .zip(codes)
                .map(|(a, b)| f64::from(E4M3[usize::from(*a)]) * f64::from(E4M3[usize::from(*b)]));
            // From +0, unlike `sum`, so that an empty sum and one of zeros are the same bits.
            let sum = products.fold(0.0, |sum, product| sum + product);
            output.push(sum as f32 * (token_scale * scale));
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines `f32 bits in hex, code in hex`, written by `e4m3.py` with ml_dtypes.
    const ML_DTYPES: &str = include_str!("fp8/e4m3.txt");

    #[test]
    fn codes_are_those_of_ml_dtypes() {
        let mut decoded = 0;
        for line in ML_DTYPES.lines() {
            let mut words = line.split(' ');
            let kind = words.next().unwrap();
            let bits = u32::from_str_radix(words.next().unwrap(), 16).unwrap();
            let code = u8::from_str_radix(words.next().unwrap(), 16).unwrap();
            match kind {
                "decode" => {
                    let value = e4m3_to_f32(code);
                    assert!(
                        value.to_bits() == bits || (value.is_nan() && f32::from_bits(bits).is_nan()),
                        "{code:#x}"
                    );
                    decoded += 1;
                }
                "encode" => assert_eq!(
                    f32_to_e4m3(f32::from_bits(bits)),
                    code,
                    "{:e}",
                    f32::from_bits(bits)
                ),
                other => panic!("{other}"),
            }
        }
        assert_eq!(decoded, 256);
    }

    #[test]
    fn what_is_too_large_saturates_and_nan_stays() {
        for (value, code) in [
            (448.1, 0x7e),
            (1e30, 0x7e),
            (f32::INFINITY, 0x7e),
            (f32::NEG_INFINITY, 0xfe),
            (f32::NAN, 0x7f),
            (-f32::NAN, 0xff),
        ] {
            assert_eq!(f32_to_e4m3(value), code, "{value}");
        }
    }

    #[test]
    fn a_product_by_hand() {
        // Largest magnitudes 448 and 224: scales 1 and 0.5. 3.3 lies between 3.25 and 3.5; 0.1 / 0.5 = 0.2 between
        // 0.203125 (1.625 / 8) and 0.1875.
        let mut codes = [0; 4];
        assert_eq!(quantize_row(&[448.0, 3.3], &mut codes[..2]), 1.0);
        assert_eq!(quantize_row(&[-224.0, 0.1], &mut codes[2..]), 0.5);
        assert_eq!(codes.map(e4m3_to_f32), [448.0, 3.25, -448.0, 0.203_125]);
        let sum = 448.0 * -448.0 + 3.25 * 0.203_125_f64;
        let out = product(&[448.0, 3.3], 2, &codes[2..], &[0.5]);
        assert_eq!(out, [sum as f32 * 0.5]);
    }

    #[test]
    fn the_widest_sum_is_exact() {
        assert_eq!(MAX_COLS as u64, (1_u64 << 53) / (448 * 448 * (1 << 18)));
    }

    #[test]
    fn rows_without_a_scale() {
        let mut codes = [1; 3];
        assert_eq!(quantize_row(&[0.0, -0.0, 0.0], &mut codes), 0.0);
        assert_eq!(codes, [0; 3]);
        assert!(
            product(&[f32::INFINITY, 1.0], 2, &[0x38; 4], &[1.0; 2])
                .iter()
                .all(|v| v.is_nan())
        );
        assert!(
            product(&[f32::NAN, 1.0], 2, &[0x38; 4], &[1.0; 2])
                .iter()
                .all(|v| v.is_nan())
        );
    }
}
