//! `8bit`: LLM.int8() (Dettmers et al. 2022). Its activation side is `qbench_sdk::layout::int8`.

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo,
    layout::{
        Int8Vectorwise,
        int8::{MAX_COLS, quantize_row, round_to_f16},
    },
    narrow, parallel,
};

use crate::storage;

const ID: &str = "8bit";
const DEFAULT_THRESHOLD: f32 = 6.0;

/// Stores each row as signed bytes and its largest magnitude, after rounding the weights to f16.
#[derive(Clone, Copy, Debug)]
pub struct Int8 {
    threshold: f32,
}

impl Int8 {
    /// Opens the scheme. Option `threshold`: the magnitude from which an activation is an outlier, 0 for none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another option or a threshold that is negative or not finite.
    pub fn open(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let threshold: f32 = options.take("threshold", DEFAULT_THRESHOLD)?;
        options.finish(&["threshold"])?;
        if !threshold.is_finite() || threshold < 0.0 {
            return Err(Error::InvalidArgument(format!(
                "option `threshold={threshold}`: expected a number from 0 (no outliers) upwards"
            )));
        }
        Ok(Self { threshold })
    }
}

impl QuantScheme for Int8 {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: ID.to_owned(),
            aliases: vec!["int8".to_owned()],
            summary:
                "LLM.int8(): a signed byte a weight, a scale a row, outlier activations in floating point"
                    .to_owned(),
            options: vec![("threshold".to_owned(), format!("{DEFAULT_THRESHOLD:?}"))],
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        storage::quantizable(ID, rows, cols, source)?;
        if cols > MAX_COLS {
            return Err(Error::Unsupported(format!(
                "mode {ID}: {cols} columns; sums over more than {MAX_COLS} may not fit into 32 bits"
            )));
        }
        let layout = Layout::Int8Vectorwise(Int8Vectorwise { rows, cols });
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
        let [codes, scales, threshold] = storage::buffers(self, &source, layout, buffers)?;
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        let cols = source.cols();
        let rows_a_part = (storage::PART / cols).max(1);
        let mut row_scales = vec![0.0; source.rows()];
        let parts = codes
            .chunks_mut(rows_a_part * cols)
            .zip(row_scales.chunks_mut(rows_a_part))
            .enumerate();
        parallel::for_each(parts, context.threads, |(part, (codes, scales))| {
            let mut values = vec![0.0; cols];
            for (row, (codes, scale)) in codes.chunks_exact_mut(cols).zip(scales).enumerate() {
                source.read_row(part * rows_a_part + row, &mut values)?;
                round_to_f16(&mut values);
                *scale = pulp::Arch::new().dispatch(|| quantize_row(&values, codes));
            }
            Ok(())
        })?;
        narrow(&row_scales, DType::F32, scales)?;
        narrow(&[self.threshold], DType::F32, threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(options: &str) -> Result<Int8> {
        Int8::open(&Options::parse(options).unwrap())
    }

    #[test]
    fn the_threshold_is_checked() {
        assert_eq!(open("").unwrap().threshold, 6.0);
        assert_eq!(open("threshold=0").unwrap().threshold, 0.0);
        for bad in [
            "threshold=-1",
            "threshold=inf",
            "threshold=NaN",
            "threshold=six",
            "block=64",
        ] {
            let error = open(bad).unwrap_err().to_string();
            assert!(error.contains(bad.split('=').next().unwrap()), "{error}");
        }
    }

    #[test]
    fn sums_that_may_overflow_are_refused() {
        let scheme = open("").unwrap();
        assert!(scheme.layout(1, MAX_COLS, DType::F32).is_ok());
        assert!(scheme.layout(1, MAX_COLS + 1, DType::F32).is_err());
    }
}
