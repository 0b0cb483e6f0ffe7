//! The reference decoder.

use super::{BlockCodebook, Blocks, Int8Vectorwise, Layout, NibbleOrder, Scale, ScaledFp8, fp8::E4M3};
use crate::{Error, Matrix, MatrixMut, Result};

/// f32(1 / 127): turns an int8 code times its row's scale into a weight (bitsandbytes `int8_vectorwise_dequant`).
const INT8_STEP: f32 = 1.0 / 127.0;

/// Writes the rows `first_row .. first_row + out.rows()` of a stored matrix, each value rounded once to `out`'s type.
///
/// # Errors
/// [`Error::InvalidArgument`] when the buffers are not those of the layout or `out` does not match it,
/// [`Error::Unsupported`] for a custom layout.
pub fn decode(layout: &Layout, buffers: &[&[u8]], first_row: usize, out: &mut MatrixMut<'_>) -> Result<()> {
    check_rows(layout, buffers, first_row, out)?;
    match layout {
        Layout::Dense(dense) => {
            let source = Matrix::new(buffers[0], dense.rows, dense.cols, dense.dtype)?;
            write_rows(out, |row, values| source.read_row(first_row + row, values))
        }
        Layout::BlockCodebook(layout) => {
            let scales = BlockScales::new(layout, buffers);
            let codebook = floats(buffers[1]);
            write_rows(out, |row, values| {
                let row = first_row + row;
                for (col, value) in values.iter_mut().enumerate() {
                    let (code, block) = locate(layout, buffers[0], row, col);
                    *value = codebook[code] * scales.get(block);
                }
                Ok(())
            })
        }
        Layout::Int8Vectorwise(Int8Vectorwise { cols, .. }) => {
            let scales = floats(buffers[1]);
            write_rows(out, |row, values| {
                let row = first_row + row;
                let codes = &buffers[0][row * cols..(row + 1) * cols];
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = f32::from(code as i8) * scales[row] * INT8_STEP;
                }
                Ok(())
            })
        }
        Layout::ScaledFp8(ScaledFp8 { cols, .. }) => {
            let scales = floats(buffers[1]);
            write_rows(out, |row, values| {
                let row = first_row + row;
                let codes = &buffers[0][row * cols..(row + 1) * cols];
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = E4M3[usize::from(code)] * scales[row];
                }
                Ok(())
            })
        }
        Layout::Custom(custom) => Err(Error::Unsupported(format!(
            "layout {} is known to its scheme only",
            custom.kind
        ))),
    }
}

/// Whether these are the layout's buffers, and `out` rows of its matrix from `first_row` on.
pub(crate) fn check_rows(
    layout: &Layout,
    buffers: &[&[u8]],
    first_row: usize,
    out: &MatrixMut<'_>,
) -> Result<()> {
    layout.validate()?;
    layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
    if out.cols() != layout.cols() || first_row.saturating_add(out.rows()) > layout.rows() {
        return Err(Error::InvalidArgument(format!(
            "rows {first_row} to {} of {} columns do not lie in a {} x {} matrix",
            first_row.saturating_add(out.rows()),
            out.cols(),
            layout.rows(),
            layout.cols()
        )));
    }
    Ok(())
}

fn write_rows(out: &mut MatrixMut<'_>, mut fill: impl FnMut(usize, &mut [f32]) -> Result<()>) -> Result<()> {
    let mut values = vec![0.0; out.cols()];
    for row in 0..out.rows() {
        fill(row, &mut values)?;
        out.write_row(row, &values)?;
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}

/// The code of an element and the number of its block.
fn locate(layout: &BlockCodebook, codes: &[u8], row: usize, col: usize) -> (usize, usize) {
    let bits = usize::from(layout.bits);
    let flat = row * layout.cols + col;
    let (first_byte, index, block) = match layout.blocks {
        Blocks::Flat => (0, flat, flat / layout.block),
        Blocks::PerRow => (
            row * (layout.cols * bits).div_ceil(8),
            col,
            row * layout.cols.div_ceil(layout.block) + col / layout.block,
        ),
    };
    let code = if bits == 8 {
        codes[first_byte + index]
    } else {
        let byte = codes[first_byte + index / 2];
        let high = (index % 2 == 0) == (layout.order == NibbleOrder::HighFirst);
        if high { byte >> 4 } else { byte & 15 }
    };
    (usize::from(code), block)
}

enum BlockScales<'a> {
    Plain(Vec<f32>),
    Coded {
        codes: &'a [u8],
        scales: Vec<f32>,
        codebook: Vec<f32>,
        offset: f32,
        block: usize,
    },
}

impl<'a> BlockScales<'a> {
    fn new(layout: &BlockCodebook, buffers: &[&'a [u8]]) -> Self {
        match layout.scale {
            Scale::F32 => Self::Plain(floats(buffers[2])),
            Scale::Coded { block } => Self::Coded {
                codes: buffers[2],
                scales: floats(buffers[3]),
                codebook: floats(buffers[4]),
                offset: floats(buffers[5])[0],
                block,
            },
        }
    }

    fn get(&self, index: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[index],
            Self::Coded {
                codes,
                scales,
                codebook,
                offset,
                block,
            } => codebook[usize::from(codes[index])] * scales[index / block] + offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, layout::Dense};

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn rows(layout: &Layout, buffers: &[&[u8]], first_row: usize, count: usize) -> Vec<f32> {
        let mut data = vec![0; count * layout.cols() * 4];
        let mut out = MatrixMut::new(&mut data, count, layout.cols(), DType::F32).unwrap();
        decode(layout, buffers, first_row, &mut out).unwrap();
        floats(&data)
    }

    /// 2 x 3 in blocks of 2, codes 0 1 2 | 3 4 5, codebook[i] = i.
    fn example(blocks: Blocks, order: NibbleOrder) -> Layout {
        Layout::BlockCodebook(BlockCodebook {
            rows: 2,
            cols: 3,
            bits: 4,
            order,
            blocks,
            block: 2,
            scale: Scale::F32,
        })
    }

    #[test]
    fn flat_blocks_cross_rows() {
        let codebook: Vec<f32> = (0..16_u8).map(f32::from).collect();
        let layout = example(Blocks::Flat, NibbleOrder::HighFirst);
        let buffers: [&[u8]; 3] = [
            &[0x01, 0x23, 0x45],
            &bytes(&codebook),
            &bytes(&[1.0, 10.0, 100.0]),
        ];
        assert_eq!(
            rows(&layout, &buffers, 0, 2),
            [0.0, 1.0, 20.0, 30.0, 400.0, 500.0]
        );
        assert_eq!(rows(&layout, &buffers, 1, 1), [30.0, 400.0, 500.0]);
    }

    #[test]
    fn blocks_per_row_start_anew() {
        let codebook: Vec<f32> = (0..16_u8).map(f32::from).collect();
        let layout = example(Blocks::PerRow, NibbleOrder::LowFirst);
        let buffers: [&[u8]; 3] = [
            &[0x10, 0x02, 0x43, 0x05],
            &bytes(&codebook),
            &bytes(&[1.0, 10.0, 100.0, 1000.0]),
        ];
        assert_eq!(
            rows(&layout, &buffers, 0, 2),
            [0.0, 1.0, 20.0, 300.0, 400.0, 5000.0]
        );
    }

    #[test]
    fn coded_scales_are_a_product_and_a_sum() {
        let mut second = vec![0.0_f32; 256];
        second[7] = 0.5;
        let layout = Layout::BlockCodebook(BlockCodebook {
            rows: 1,
            cols: 2,
            bits: 8,
            order: NibbleOrder::HighFirst,
            blocks: Blocks::Flat,
            block: 2,
            scale: Scale::Coded { block: 256 },
        });
        let codebook: Vec<f32> = (0..256_u16).map(f32::from).collect();
        let buffers: [&[u8]; 6] = [
            &[3, 200],
            &bytes(&codebook),
            &[7],
            &bytes(&[4.0]),
            &bytes(&second),
            &bytes(&[1.0]),
        ];
        assert_eq!(rows(&layout, &buffers, 0, 1), [9.0, 600.0]);
    }

    #[test]
    fn int8_rows_have_their_own_scale() {
        let layout = Layout::Int8Vectorwise(Int8Vectorwise { rows: 2, cols: 2 });
        let buffers: [&[u8]; 3] = [&[127, 0x81, 1, 0], &bytes(&[2.0, 127.0]), &bytes(&[6.0])];
        let decoded = rows(&layout, &buffers, 0, 2);
        assert_eq!(
            decoded,
            [254.0 * INT8_STEP, -254.0 * INT8_STEP, 127.0 * INT8_STEP, 0.0]
        );
        assert_eq!(
            INT8_STEP.to_bits(),
            0x3c01_0204,
            "the bits of bitsandbytes' constant 7.874015718698502e-3"
        );
    }

    #[test]
    fn wrong_buffers_and_rows_are_refused() {
        let layout = Layout::Dense(Dense {
            rows: 2,
            cols: 2,
            dtype: DType::F32,
        });
        let mut data = vec![0; 16];
        let mut out = MatrixMut::new(&mut data, 2, 2, DType::F32).unwrap();
        assert!(decode(&layout, &[&[0; 15]], 0, &mut out).is_err());
        assert!(decode(&layout, &[], 0, &mut out).is_err());
        assert!(decode(&layout, &[&[0; 16]], 1, &mut out).is_err());
        assert!(decode(&layout, &[&[0; 16]], usize::MAX, &mut out).is_err());
    }
}
