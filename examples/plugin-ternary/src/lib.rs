//! `ternary`: each weight is -1, 0 or 1 times a scale of its row, five weights a byte.
//!
//! The rounding is that of BitNet b1.58 (Ma et al. 2024, <https://arxiv.org/abs/2402.17764>), a row at a time: the scale
//! is the mean magnitude, and a weight becomes `round(w / scale)`, limited to -1 and 1. Nothing is trained here, so expect
//! it to hurt.
//!
//! Base 3 fits no layout that qbench describes. The scheme therefore brings its own: it has a kind id of its own, says
//! which buffers it needs, turns rows back into floats (`dequantize`), and multiplies without doing so (`matmul`). A CPU
//! backend uses the product; others dequantise, and results say which it was.

mod trits;

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, MatrixMut, Options, QuantScheme, Result, SchemeInfo,
    export_plugin,
    layout::{BufferSpec, Custom},
    narrow, parallel,
};

const ID: &str = "ternary";

/// A name in the author's own name space, with a revision: a reversed domain name is never anybody else's.
const KIND: &str = "org.example.ternary/1";

struct Ternary;

impl Ternary {
    fn open(options: &Options) -> Result<Self> {
        options.finish(&[]).map(|()| Self)
    }

    /// Refuses a layout or buffers that this scheme did not make; buffers are indexed without further checks.
    fn check(layout: &Layout, sizes: impl Iterator<Item = usize>) -> Result<()> {
        if layout.kind() != KIND || layout.buffers() != buffers(layout.rows(), layout.cols())? {
            return Err(Error::InvalidArgument(format!("{ID}: not a layout of {KIND}")));
        }
        layout.check_buffers(sizes)
    }
}

/// `trits`: each row's weights, five a byte, the last byte filled with zeros. `scales`: one a row.
fn buffers(rows: usize, cols: usize) -> Result<Vec<BufferSpec>> {
    let bytes = rows.checked_mul(cols.div_ceil(trits::A_BYTE));
    let bytes = bytes.filter(|_| rows.checked_mul(cols).is_some_and(|weights| weights < 1 << 48));
    let bytes = bytes.ok_or_else(|| Error::Unsupported(format!("{ID}: a {rows} x {cols} matrix")))?;
    Ok(vec![
        BufferSpec::new("trits", bytes, DType::U8),
        BufferSpec::new("scales", rows, DType::F32),
    ])
}

/// The scale of a row.
fn scale(scales: &[u8], row: usize) -> f32 {
    f32::from_le_bytes(scales.as_chunks::<4>().0[row])
}

impl QuantScheme for Ternary {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: ID.to_owned(),
            summary: "-1, 0 or 1 times a scale a row: 1.6 bits a weight".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if rows == 0 || cols == 0 || !source.is_float() {
            return Err(Error::Unsupported(format!(
                "{ID}: a {rows} x {cols} matrix of {source}"
            )));
        }
        Ok(Layout::Custom(Custom {
            kind: KIND.to_owned(),
            rows,
            cols,
            buffers: buffers(rows, cols)?,
            ..Custom::default()
        }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        Self::check(layout, buffers.iter().map(|buffer| buffer.len()))?;
        let (rows, cols) = (source.rows(), source.cols());
        if (layout.rows(), layout.cols()) != (rows, cols) {
            return Err(Error::InvalidArgument(format!(
                "{ID}: not the layout of a {rows} x {cols} matrix"
            )));
        }
        let [trits, scales] = buffers else {
            return Err(Error::InvalidArgument(format!("{ID}: expected two buffers")));
        };
        let parts = trits
            .chunks_exact_mut(cols.div_ceil(trits::A_BYTE))
            .zip(scales.chunks_exact_mut(DType::F32.size()))
            .enumerate();
        parallel::for_each(parts, context.threads, |(row, (packed, scale))| {
            let mut values = vec![0.0; cols];
            source.read_row(row, &mut values)?;
            let sum: f64 = values.iter().map(|value| f64::from(value.abs())).sum();
            let mean = (sum / cols as f64) as f32;
            narrow(&[mean], DType::F32, scale)?;
            trits::pack(values.iter().map(|value| trits::round(value / mean)), packed);
            Ok(())
        })
    }

    fn dequantize(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        first_row: usize,
        out: &mut MatrixMut<'_>,
        _context: CallContext,
    ) -> Result<()> {
        Self::check(layout, buffers.iter().map(|buffer| buffer.len()))?;
        let (rows, cols) = (layout.rows(), layout.cols());
        if out.cols() != cols || first_row.saturating_add(out.rows()) > rows {
            return Err(Error::InvalidArgument(format!(
                "{ID}: {} rows of {} columns from row {first_row} of a {rows} x {cols} matrix",
                out.rows(),
                out.cols()
            )));
        }
        let row_bytes = cols.div_ceil(trits::A_BYTE);
        let mut values = vec![0.0; cols];
        for index in 0..out.rows() {
            let row = first_row + index;
            trits::unpack(&buffers[0][row * row_bytes..][..row_bytes], &mut values);
            let scale = scale(buffers[1], row);
            values.iter_mut().for_each(|value| *value *= scale);
            out.write_row(index, &values)?;
        }
        Ok(())
    }

    /// Adds and subtracts activations; the scale is multiplied once a sum.
    fn matmul(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        input: Matrix<'_>,
        output: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        Self::check(layout, buffers.iter().map(|buffer| buffer.len()))?;
        let (rows, cols, tokens) = (layout.rows(), layout.cols(), input.rows());
        if input.cols() != cols || (output.rows(), output.cols()) != (tokens, rows) {
            return Err(Error::InvalidArgument(format!(
                "{ID}: a product of {tokens} x {} with the transpose of {rows} x {cols} into {} x {}",
                input.cols(),
                output.rows(),
                output.cols()
            )));
        }
        let mut x = vec![0.0; tokens * cols];
        for (token, x) in x.chunks_exact_mut(cols).enumerate() {
            input.read_row(token, x)?;
        }
        // Transposed, so that threads write parts of their own; each row is unpacked once for all tokens.
        let mut sums = vec![0.0_f32; rows * tokens];
        let row_bytes = cols.div_ceil(trits::A_BYTE);
        let parts = sums.chunks_exact_mut(tokens.max(1)).enumerate();
        parallel::for_each(parts, context.threads, |(row, sums)| {
            let mut weights = vec![0.0; cols];
            trits::unpack(&buffers[0][row * row_bytes..][..row_bytes], &mut weights);
            let scale = scale(buffers[1], row);
            for (sum, x) in sums.iter_mut().zip(x.chunks_exact(cols)) {
                *sum = dot(x, &weights) * scale;
            }
            Ok(())
        })?;
        let mut values = vec![0.0; rows];
        for token in 0..tokens {
            for (row, value) in values.iter_mut().enumerate() {
                *value = sums[row * tokens + token];
            }
            output.write_row(token, &values)?;
        }
        Ok(())
    }
}

/// A sum of products in sixteen parts, which the compiler turns into vector instructions.
fn dot(x: &[f32], weights: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let ((x, x_rest), (weights, weights_rest)) = (x.as_chunks::<LANES>(), weights.as_chunks::<LANES>());
    for (x, weights) in x.iter().zip(weights) {
        for ((sum, x), weight) in sums.iter_mut().zip(x).zip(weights) {
            *sum += x * weight;
        }
    }
    let rest: f32 = x_rest
        .iter()
        .zip(weights_rest)
        .map(|(x, weight)| x * weight)
        .sum();
    sums.iter().sum::<f32>() + rest
}

export_plugin!(schemes: [Ternary::open]);

#[cfg(test)]
mod tests {
    use qbench_sdk::conformance::{check_scheme, stored_buffers};

    use super::*;

    #[test]
    fn the_contract_is_kept() {
        check_scheme(Ternary::open, &Options::none()).assert_passed();
    }

    #[test]
    fn a_row_by_hand() {
        // Mean magnitude 14 / 6 = 2.33: 1.2 is above half of it, 1 is not.
        let weights = [6.0_f32, -5.0, 1.0, 1.2, -0.8, 0.0];
        let source: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let scheme = Ternary::open(&Options::none()).unwrap();
        let matrix = Matrix::new(&source, 1, 6, DType::F32).unwrap();
        let stored = stored_buffers(&scheme, matrix).unwrap();
        // Digits are weights plus 1, the first the lowest: 2 + 0·3 + 1·9 + 2·27 + 1·81 = 146; then 1, filled up with 1s.
        assert_eq!(stored[0][..], [146, 1 + 3 + 9 + 27 + 81]);
        let mean = f32::from_le_bytes(stored[1][..].try_into().unwrap());
        assert!((mean - 14.0 / 6.0).abs() < 1e-6);
    }
}
