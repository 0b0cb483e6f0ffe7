//! What all schemes check before they write, and how they read.

use qbench_sdk::{DType, Error, Layout, Matrix, QuantScheme, Result, widen};

/// Elements that one thread takes at a time: its copy of them in f32 (64 KiB) stays in the second-level cache, and it
/// is a multiple of every block size.
pub(crate) const PART: usize = 16 * 1024;

/// The buffers of `layout` by position, after a check that the caller made them for this matrix.
///
/// # Errors
/// [`Error::InvalidArgument`] when `layout` is not the one that `scheme` gives for `source`, or the buffers are not its.
pub(crate) fn buffers<'a, 'b, const N: usize>(
    scheme: &impl QuantScheme,
    source: &Matrix<'_>,
    layout: &Layout,
    buffers: &'a mut [&'b mut [u8]],
) -> Result<&'a mut [&'b mut [u8]; N]> {
    let expected = scheme.layout(source.rows(), source.cols(), source.dtype())?;
    if *layout != expected {
        return Err(Error::InvalidArgument(format!(
            "mode {} stores a {} x {} matrix of {} as {expected:?}, not as {layout:?}",
            scheme.info().id,
            source.rows(),
            source.cols(),
            source.dtype()
        )));
    }
    let specs = expected.buffers();
    let sizes: Vec<usize> = specs.iter().map(|spec| spec.bytes).collect();
    let found: Vec<usize> = buffers.iter().map(|buffer| buffer.len()).collect();
    match <&mut [&mut [u8]; N]>::try_from(buffers) {
        Ok(buffers) if sizes == found => Ok(buffers),
        _ => Err(Error::InvalidArgument(format!(
            "layout {} has buffers of {sizes:?} bytes; {found:?} were given",
            layout.kind()
        ))),
    }
}

/// Refuses what has no scale: integer elements, and matrices without any.
///
/// # Errors
/// [`Error::Unsupported`].
pub(crate) fn quantizable(mode: &str, rows: usize, cols: usize, source: DType) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Err(Error::Unsupported(format!(
            "mode {mode}: a {rows} x {cols} matrix has no weights to quantise"
        )));
    }
    match source {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        DType::I8 | DType::U8 => Err(Error::Unsupported(format!(
            "mode {mode}: weights of {source}; expected f32, f16 or bf16"
        ))),
    }
}

/// Widens the elements `first .. first + out.len()` of the flattened matrix to f32, exactly.
///
/// # Errors
/// [`Error::Unsupported`] for integer types.
///
/// # Panics
/// When the matrix has fewer elements.
pub(crate) fn read_flat(source: &Matrix<'_>, first: usize, out: &mut [f32]) -> Result<()> {
    let (cols, size) = (source.cols(), source.dtype().size());
    let mut next = first;
    let mut rest = out;
    while !rest.is_empty() {
        let (row, col) = (next / cols, next % cols);
        let (head, tail) = rest.split_at_mut(rest.len().min(cols - col));
        let bytes = &source.row(row)[col * size..(col + head.len()) * size];
        widen(bytes, source.dtype(), head)?;
        next += head.len();
        rest = tail;
    }
    Ok(())
}

/// The largest magnitude; NaN when any value is NaN.
#[inline]
pub(crate) fn absmax(values: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are, with NaN above infinity.
    let bits = values
        .iter()
        .fold(0, |max, value| value.abs().to_bits().cast_signed().max(max));
    f32::from_bits(bits.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_across_rows_and_gaps() {
        // Rows of three with one element of padding.
        let data: Vec<u8> = [0.0_f32, 1.0, 2.0, 99.0, 3.0, 4.0, 5.0, 99.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let matrix = Matrix::with_stride(&data, 2, 3, 16, DType::F32).unwrap();
        let mut out = [0.0; 4];
        read_flat(&matrix, 1, &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0, 3.0, 4.0]);
        read_flat(&matrix, 6, &mut []).unwrap();
    }

    #[test]
    fn a_nan_is_the_largest_magnitude() {
        assert_eq!(absmax(&[1.0, -3.0, 2.0]), 3.0);
        assert_eq!(absmax(&[]), 0.0);
        assert_eq!(absmax(&[f32::NEG_INFINITY, 1.0]), f32::INFINITY);
        assert!(absmax(&[f32::INFINITY, -f32::NAN, 1.0]).is_nan());
    }
}
