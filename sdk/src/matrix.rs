//! Borrowed row-major matrices of any element type.

use half::{bf16, f16};

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

/// Widens little-endian elements of a float type to f32, exactly.
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
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*chunk).to_f32();
            }
        }
        DType::I8 | DType::U8 => return Err(Error::Unsupported(format!("{dtype} values as floats"))),
    }
    Ok(())
}

/// Rounds f32 values to a float type (nearest even) as little-endian elements.
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
            for (value, chunk) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *chunk = f16::from_f32(*value).to_le_bytes();
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
}
