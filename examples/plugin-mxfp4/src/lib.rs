//! `mxfp4`: OCP MXFP4. Blocks of 32 weights of a row share a power of two; each weight is an e2m1 number times that.
//!
//! Source: OCP Microscaling Formats (MX) Specification 1.0 (2023), sections 5.2, 5.3.3 and 6.3: the shared exponent is
//! `floor(log2(max |v|)) - 2`, elements are rounded to nearest even and saturate at ±6, the scale is an e8m0 byte.
//!
//! The storage is described as a block codebook: the table is e2m1's sixteen numbers, and a scale is a code into a table
//! of e8m0's 256 powers of two. Every backend with a kernel for block codebooks runs it; 4.25 bits a weight.

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo, export_plugin,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
    narrow, parallel,
};

const ID: &str = "mxfp4";

/// Elements that share a scale (section 5.2).
const BLOCK: usize = 32;

/// Exponent of e2m1's largest number, 6 = 1.5 · 2².
const ELEMENT_EXPONENT: i32 = 2;

/// The e8m0 code of NaN; code `c` otherwise stands for 2^(c - 127).
const SCALE_NAN: u8 = 255;

/// Numbers of the codes 0 to 7; codes 8 to 15 are their negatives.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

struct Mxfp4;

impl Mxfp4 {
    fn open(options: &Options) -> Result<Self> {
        options.finish(&[]).map(|()| Self)
    }
}

impl QuantScheme for Mxfp4 {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: ID.to_owned(),
            summary: "OCP MXFP4: e2m1 numbers, a power of two a block of 32".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if rows == 0 || cols == 0 || !source.is_float() {
            return Err(Error::Unsupported(format!(
                "{ID}: a {rows} x {cols} matrix of {source}"
            )));
        }
        let mut shape = BlockCodebook {
            rows,
            cols,
            bits: 4,
            order: NibbleOrder::LowFirst,
            blocks: Blocks::PerRow,
            block: BLOCK,
            scale: Scale::F32,
        };
        // Sizes are checked before they are multiplied.
        Layout::BlockCodebook(shape.clone()).validate()?;
        // One second-level scale, 1, for all: e8m0's table holds the powers of two themselves.
        shape.scale = Scale::Coded {
            block: shape.block_count(),
        };
        Ok(Layout::BlockCodebook(shape))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        let (rows, cols) = (source.rows(), source.cols());
        if *layout != self.layout(rows, cols, source.dtype())? {
            return Err(Error::InvalidArgument(format!(
                "{ID}: not the layout of a {rows} x {cols} matrix"
            )));
        }
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        let [codes, codebook, scales, scale, scale_codebook, offset] = buffers else {
            return Err(Error::InvalidArgument(format!("{ID}: expected six buffers")));
        };
        narrow(&element_table(), DType::F32, codebook)?;
        narrow(&scale_table(), DType::F32, scale_codebook)?;
        narrow(&[1.0], DType::F32, scale)?;
        narrow(&[0.0], DType::F32, offset)?;
        let parts = codes
            .chunks_exact_mut(cols.div_ceil(2))
            .zip(scales.chunks_exact_mut(cols.div_ceil(BLOCK)))
            .enumerate();
        parallel::for_each(parts, context.threads, |(row, (codes, scales))| {
            let mut values = vec![0.0; cols];
            source.read_row(row, &mut values)?;
            // A block of 32 codes is 16 bytes, so that no byte belongs to two blocks.
            let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2));
            for ((values, codes), scale) in blocks.zip(scales) {
                *scale = quantize_block(values, codes);
            }
            Ok(())
        })
    }
}

/// Writes two codes a byte and returns the block's scale.
fn quantize_block(values: &[f32], codes: &mut [u8]) -> u8 {
    // Magnitudes are ordered as their bits are, with infinity and NaN above all numbers.
    let bits = values
        .iter()
        .map(|value| value.abs().to_bits())
        .max()
        .unwrap_or(0);
    let largest = f32::from_bits(bits);
    if !largest.is_finite() {
        // The specification leaves it open; nothing else says that the block is no numbers.
        return SCALE_NAN;
    }
    let exponent = (floor_log2(largest) - ELEMENT_EXPONENT).clamp(-127, 127);
    // f64 holds 2^127 and every quotient exactly.
    let scale = 2.0_f64.powi(exponent);
    for (index, value) in values.iter().enumerate() {
        codes[index / 2] |= e2m1(f64::from(*value) / scale) << (4 * (index % 2));
    }
    (exponent + 127) as u8
}

/// The exponent of the largest power of two that is not above `value`; very small for 0.
fn floor_log2(value: f32) -> i32 {
    // f64 has no subnormal numbers where f32 has.
    ((f64::from(value).to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// The code of the nearest e2m1 number, ties to the one with an even mantissa.
fn e2m1(value: f64) -> u8 {
    // Middles between neighbours; the even one of each pair is 0, 1, 2 or 4, whose codes are even.
    const MIDDLES: [f64; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let magnitude = value.abs();
    let mut code = 0;
    for (lower, middle) in MIDDLES.iter().enumerate() {
        if magnitude > *middle || (magnitude == *middle && lower % 2 == 1) {
            code = lower as u8 + 1;
        }
    }
    code | u8::from(value.is_sign_negative()) << 3
}

fn element_table() -> [f32; 16] {
    std::array::from_fn(|code| if code < 8 { E2M1[code] } else { -E2M1[code - 8] })
}

fn scale_table() -> [f32; 256] {
    std::array::from_fn(|code| match code as u8 {
        SCALE_NAN => f32::NAN,
        code => 2.0_f64.powi(i32::from(code) - 127) as f32,
    })
}

export_plugin!(schemes: [Mxfp4::open]);

#[cfg(test)]
mod tests;
