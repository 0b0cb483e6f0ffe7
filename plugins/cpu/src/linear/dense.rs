//! Densely stored weights.

use std::ops::Range;

use qbench_cpu_kernels::Operand;
use qbench_sdk::{AlignedBuffer, DType, Error, Result, StoredTensor, narrow, widen};
use rayon::prelude::*;

use super::rows::{Rows, Scratch, elements};

/// A weight in the type of the precision.
pub(super) struct DenseWeight {
    store: Store,
    cols: usize,
    precision: DType,
}

enum Store {
    /// The host's memory, as it is.
    Kept(Box<dyn StoredTensor>),
    /// Converted once.
    Converted(AlignedBuffer),
}

impl DenseWeight {
    pub(super) fn new(tensor: Box<dyn StoredTensor>, precision: DType) -> Result<Self> {
        let cols = tensor.layout().cols();
        let store = if tensor.dense_dtype() == Some(precision) {
            Store::Kept(tensor)
        } else {
            Store::Converted(convert(tensor.as_ref(), precision)?)
        };
        Ok(Self {
            store,
            cols,
            precision,
        })
    }

    fn bytes(&self, rows: Range<usize>) -> &[u8] {
        let all = match &self.store {
            Store::Kept(tensor) => tensor.buffer(0),
            Store::Converted(buffer) => buffer,
        };
        let row = self.cols * self.precision.size();
        &all[rows.start * row..rows.end * row]
    }

    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        widen(self.bytes(row..row + 1), self.precision, out)
    }
}

impl Rows for DenseWeight {
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        operand: Operand,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8]> {
        let bytes = self.bytes(rows.clone());
        if operand == Operand::F32 && self.precision != DType::F32 {
            let values = elements(scratch, rows.len() * self.cols);
            widen(bytes, self.precision, values)?;
            return Ok(bytemuck::cast_slice(values));
        }
        Ok(bytes)
    }
}

/// The values of a dense tensor in another type, row by row.
fn convert(tensor: &dyn StoredTensor, precision: DType) -> Result<AlignedBuffer> {
    let Some(source) = tensor.dense() else {
        return Err(Error::Unsupported(format!(
            "layout {} as dense floats",
            tensor.layout().kind()
        )));
    };
    let mut buffer = AlignedBuffer::zeroed(source.rows() * source.cols() * precision.size());
    buffer
        .par_chunks_mut((source.cols() * precision.size()).max(1))
        .enumerate()
        .try_for_each_init(
            || vec![0.0; source.cols()],
            |values, (row, out)| {
                source.read_row(row, values)?;
                narrow(values, precision, out)
            },
        )?;
    Ok(buffer)
}
