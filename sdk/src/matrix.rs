//! Borrowed row-major matrices of any element type.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{DType, Error, Result};

/// A borrowed matrix; a weight is `[out_features, in_features]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [u8],
    rows: usize,
    cols: usize,
    row_stride: usize,
    dtype: DType,
}

/// A borrowed matrix to be written.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [u8],
    rows: usize,
    cols: usize,
    row_stride: usize,
    dtype: DType,
}

fn check_shape(bytes: usize, rows: usize, cols: usize, row_stride: usize, dtype: DType) -> Result<()> {
    let row_bytes = cols.checked_mul(dtype.size());
    let needed = row_bytes.and_then(|row| {
        if rows == 0 {
            Some(0)
        } else {
            (rows - 1).checked_mul(row_stride)?.checked_add(row)
        }
    });
    match (row_bytes, needed) {
        (Some(row), Some(needed)) if row <= row_stride && needed <= bytes => Ok(()),
        _ => Err(Error::InvalidArgument(format!(
            "a {rows} x {cols} matrix of {dtype} with a row stride of {row_stride} bytes does not fit into {bytes} bytes"
        ))),
    }
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows follow each other without a gap.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `data` is too short.
    pub fn new(data: &'a [u8], rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        Self::with_stride(data, rows, cols, cols * dtype.size(), dtype)
    }

    /// A matrix whose rows start `row_stride` bytes apart.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `data` is too short or the stride is shorter than a row.
    pub fn with_stride(
        data: &'a [u8],
        rows: usize,
        cols: usize,
        row_stride: usize,
        dtype: DType,
    ) -> Result<Self> {
        check_shape(data.len(), rows, cols, row_stride, dtype)?;
        Ok(Self {
            data,
            rows,
            cols,
            row_stride,
            dtype,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes from one row's start to the next's.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The bytes behind the matrix.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of row `index`.
    ///
    /// # Panics
    /// When `index` is not below the number of rows.
    pub fn row(&self, index: usize) -> &'a [u8] {
        let start = index * self.row_stride;
        &self.data[start..start + self.cols * self.dtype.size()]
    }

    /// Widens row `index` to f32, exactly.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for integer types.
    ///
    /// # Panics
    /// When `index` is not below the number of rows or `out` is not a row long.
    pub fn read_row(&self, index: usize, out: &mut [f32]) -> Result<()> {
        widen(self.row(index), self.dtype, out)
    }
}

impl<'a> MatrixMut<'a> {
    /// A matrix whose rows follow each other without a gap.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `data` is too short.
    pub fn new(data: &'a mut [u8], rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        Self::with_stride(data, rows, cols, cols * dtype.size(), dtype)
    }

    /// A matrix whose rows start `row_stride` bytes apart.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `data` is too short or the stride is shorter than a row.
    pub fn with_stride(
        data: &'a mut [u8],
        rows: usize,
        cols: usize,
        row_stride: usize,
        dtype: DType,
    ) -> Result<Self> {
        check_shape(data.len(), rows, cols, row_stride, dtype)?;
        Ok(Self {
            data,
            rows,
            cols,
            row_stride,
            dtype,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes from one row's start to the next's.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The bytes behind the matrix.
    pub fn data(&mut self) -> &mut [u8] {
        self.data
    }

    /// The bytes of row `index`.
    ///
    /// # Panics
    /// When `index` is not below the number of rows.
    pub fn row(&mut self, index: usize) -> &mut [u8] {
        let start = index * self.row_stride;
        &mut self.data[start..start + self.cols * self.dtype.size()]
    }

    /// Writes f32 values into row `index`, rounded once to the element type (nearest even).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for integer types.
    ///
    /// # Panics
    /// When `index` is not below the number of rows or `values` is not a row long.
    pub fn write_row(&mut self, index: usize, values: &[f32]) -> Result<()> {
        let dtype = self.dtype;
        narrow(values, dtype, self.row(index))
    }

    /// The same matrix, borrowed for reading.
    pub fn as_matrix(&self) -> Matrix<'_> {
        Matrix {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            dtype: self.dtype,
        }
    }
}

/// Elements that are converted together: the CPU's vector instructions for f16 want a slice of it, which bytes at any
/// address are not.
const CHUNK: usize = 256;

/// Widens little-endian elements of a float type to f32, exactly; a NaN stays one, and keeps its sign.
///
/// # Errors
/// [`Error::Unsupported`] for integer types.
///
/// # Panics
/// When `bytes` does not hold exactly `out.len()` elements.
pub fn widen(bytes: &[u8], dtype: DType, out: &mut [f32]) -> Result<()> {
    assert_eq!(
        bytes.len(),
        out.len() * dtype.size(),
        "one element of `bytes` for each of `out`"
    );
    match dtype {
        DType::F32 => {
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*chunk);
            }
        }
        DType::BF16 => {
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*chunk)) << 16);
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            for (out, bytes) in out.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
                let halves = &mut halves[..out.len()];
                for (half, pair) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*pair);
                }
                halves.convert_to_f32_slice(out);
            }
        }
        DType::I8 | DType::U8 => return Err(Error::Unsupported(format!("{dtype} values as floats"))),
    }
    Ok(())
}

/// Rounds f32 values to a float type (nearest even) as little-endian elements; a NaN stays one, and keeps its sign.
///
/// # Errors
/// [`Error::Unsupported`] for integer types.
///
/// # Panics
/// When `bytes` does not have room for exactly `values.len()` elements.
pub fn narrow(values: &[f32], dtype: DType, bytes: &mut [u8]) -> Result<()> {
    assert_eq!(
        bytes.len(),
        values.len() * dtype.size(),
        "room for one element for each of `values`"
    );
    match dtype {
        DType::F32 => {
            for (value, chunk) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *chunk = value.to_le_bytes();
            }
        }
        DType::BF16 => {
            for (value, chunk) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *chunk = bf16::from_f32(*value).to_le_bytes();
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            for (values, bytes) in values.chunks(CHUNK).zip(bytes.chunks_mut(2 * CHUNK)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (half, pair) in halves.iter().zip(bytes.as_chunks_mut::<2>().0) {
                    *pair = half.to_le_bytes();
                }
            }
        }
        DType::I8 | DType::U8 => return Err(Error::Unsupported(format!("floats as {dtype} values"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_their_stride() {
        let data: Vec<u8> = [1.0_f32, 2.0, 9.0, 3.0, 4.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let matrix = Matrix::with_stride(&data, 2, 2, 12, DType::F32).unwrap();
        let mut row = [0.0; 2];
        matrix.read_row(1, &mut row).unwrap();
        assert_eq!(row, [3.0, 4.0]);
    }

    #[test]
    fn a_matrix_that_does_not_fit_is_refused() {
        assert!(Matrix::new(&[0; 15], 2, 2, DType::F32).is_err());
        assert!(Matrix::with_stride(&[0; 64], 2, 2, 4, DType::F32).is_err());
        assert!(Matrix::new(&[], usize::MAX, 2, DType::U8).is_err());
    }

    #[test]
    fn half_types_round_to_nearest_even() {
        // 1 + 2^-8 lies halfway between two bf16 values; the even one is 1. 1 + 3 * 2^-8 goes up to 1 + 2^-6.
        let mut bytes = [0; 4];
        narrow(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0], DType::BF16, &mut bytes).unwrap();
        let mut back = [0.0; 2];
        widen(&bytes, DType::BF16, &mut back).unwrap();
        assert_eq!(back, [1.0, 1.015_625]);
    }

    /// Every f16 bit pattern, and the bytes of all of them at an odd address.
    fn all_halves() -> (Vec<u16>, Vec<u8>) {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let bytes = [0]
            .into_iter()
            .chain(halves.iter().flat_map(|half| half.to_le_bytes()));
        (halves.clone(), bytes.collect())
    }

    /// The value of a finite f16 by its definition: 10 bits of fraction, 5 of exponent with a bias of 15.
    fn half_value(half: u16) -> f32 {
        let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
        let magnitude = match exponent {
            0 => fraction * 2.0_f32.powi(-24),
            _ => (1024.0 + fraction) * 2.0_f32.powi(exponent - 25),
        };
        if half >> 15 == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_half_widens_to_its_value_and_narrows_to_itself() {
        let (halves, bytes) = all_halves();
        // An odd number of elements, so that neither chunks nor vectors come out even.
        let (halves, bytes) = (&halves[1..], &bytes[3..]);
        let mut values = vec![0.0; halves.len()];
        widen(bytes, DType::F16, &mut values).unwrap();
        let mut back = vec![0; bytes.len()];
        narrow(&values, DType::F16, &mut back).unwrap();
        for ((half, value), back) in halves.iter().zip(&values).zip(back.as_chunks::<2>().0) {
            let back = u16::from_le_bytes(*back);
            assert_eq!(value.is_sign_negative(), half >> 15 == 1, "{half:04x}");
            if half & 0x7fff > 0x7c00 {
                assert!(value.is_nan(), "{half:04x}");
                // The bit that makes a NaN quiet is set, the rest of it is kept.
                assert_eq!(back, half | 0x0200, "{half:04x}");
                continue;
            }
            let expected = match half & 0x7fff {
                0x7c00 => f32::INFINITY.copysign(*value),
                _ => half_value(*half),
            };
            assert_eq!(value.to_bits(), expected.to_bits(), "{half:04x}");
            assert_eq!(back, *half);
        }
    }

    #[test]
    fn what_lies_between_two_halves_goes_to_the_nearer_or_the_even_one() {
        // The step past the largest finite f16, 65504, would be 65536; from the middle on it is infinity.
        let value = |half: u16| if half == 0x7c00 { 65536.0 } else { half_value(half) };
        let below: Vec<u16> = (0..0x7c00).collect();
        let middles: Vec<f32> = below
            .iter()
            .map(|half| value(*half).midpoint(value(half + 1)))
            .collect();
        let check = |values: Vec<f32>, expected: &dyn Fn(u16) -> u16| {
            for sign in [0, 0x8000] {
                let values: Vec<f32> = values.iter().map(|v| if sign == 0 { *v } else { -v }).collect();
                let mut bytes = vec![0; 2 * values.len()];
                narrow(&values, DType::F16, &mut bytes).unwrap();
                for ((half, value), found) in below.iter().zip(&values).zip(bytes.as_chunks::<2>().0) {
                    assert_eq!(u16::from_le_bytes(*found), expected(*half) | sign, "{value:e}");
                }
            }
        };
        check(
            middles.iter().map(|middle| middle.next_down()).collect(),
            &|half| half,
        );
        check(middles.iter().map(|middle| middle.next_up()).collect(), &|half| {
            half + 1
        });
        check(middles, &|half| half + (half & 1));
    }

    #[test]
    fn every_bf16_widens_to_its_bits_and_narrows_to_itself() {
        let (halves, bytes) = all_halves();
        let mut values = vec![0.0; halves.len()];
        widen(&bytes[1..], DType::BF16, &mut values).unwrap();
        let mut back = vec![0; bytes.len() - 1];
        narrow(&values, DType::BF16, &mut back).unwrap();
        for ((half, value), back) in halves.iter().zip(&values).zip(back.as_chunks::<2>().0) {
            assert_eq!(value.to_bits() >> 16, u32::from(*half));
            let quiet = if value.is_nan() { 0x0040 } else { 0 };
            assert_eq!(u16::from_le_bytes(*back), half | quiet);
        }
    }
}
