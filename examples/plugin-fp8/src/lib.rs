//! `fp8`: weights and activations in e4m3 (W8A8), a scale a weight row and a scale a token.
//!
//! e4m3 is the 8-bit float of the OCP 8-bit Floating Point Specification (OFP8) 1.0. The storage is described as
//! `qbench.scaled-fp8/1`, and what happens to activations is part of that kind: backends do it, this scheme stores
//! weights. `qbench_sdk::layout::fp8` has the numbers and the rounding.

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo, export_plugin,
    layout::{ScaledFp8, fp8},
    narrow, parallel,
};

const ID: &str = "fp8";

struct Fp8;

impl Fp8 {
    fn open(options: &Options) -> Result<Self> {
        options.finish(&[]).map(|()| Self)
    }
}

impl QuantScheme for Fp8 {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: ID.to_owned(),
            aliases: vec!["w8a8_fp8".to_owned()],
            summary: "e4m3 weights and activations, a scale a row and a scale a token".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if rows == 0 || cols == 0 || !source.is_float() {
            return Err(Error::Unsupported(format!(
                "{ID}: a {rows} x {cols} matrix of {source}"
            )));
        }
        let layout = Layout::ScaledFp8(ScaledFp8 { rows, cols });
        layout.validate()?;
        Ok(layout)
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
        let [codes, scales] = buffers else {
            return Err(Error::InvalidArgument(format!("{ID}: expected two buffers")));
        };
        let parts = codes
            .chunks_exact_mut(cols)
            .zip(scales.chunks_exact_mut(DType::F32.size()))
            .enumerate();
        parallel::for_each(parts, context.threads, |(row, (codes, scale))| {
            let mut values = vec![0.0; cols];
            source.read_row(row, &mut values)?;
            narrow(&[fp8::quantize_row(&values, codes)], DType::F32, scale)
        })
    }
}

export_plugin!(schemes: [Fp8::open]);

#[cfg(test)]
mod tests {
    use qbench_sdk::conformance::{check_scheme, stored_buffers};

    use super::*;

    #[test]
    fn the_contract_is_kept() {
        check_scheme(Fp8::open, &Options::none()).assert_passed();
    }

    /// Rows as ml_dtypes rounds them, written by `fp8.py`.
    #[test]
    fn rows_are_those_of_ml_dtypes() {
        let scheme = Fp8::open(&Options::none()).unwrap();
        let mut rows = 0;
        for line in include_str!("../fixtures/fp8.txt").lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let bits = |word: &&str| u32::from_str_radix(word, 16).unwrap().to_le_bytes();
            let source: Vec<u8> = words[2..].iter().flat_map(bits).collect();
            let matrix = Matrix::new(&source, 1, source.len() / 4, DType::F32).unwrap();
            let buffers = stored_buffers(&scheme, matrix).unwrap();
            assert_eq!(buffers[1][..], bits(&words[0]), "the scale of {line}");
            let codes: String = buffers[0].iter().map(|code| format!("{code:02x}")).collect();
            assert_eq!(codes, words[1], "{line}");
            rows += 1;
        }
        assert!(rows > 50);
    }
}
