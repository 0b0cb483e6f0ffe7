//! Layouts that only their scheme understands.

use std::ops::Range;

use qbench_cpu_kernels::Operand;
use qbench_sdk::{CallContext, DType, Error, Matrix, MatrixMut, Result, StoredTensor, narrow, widen};

use super::{
    dequantize_bytes,
    product::product,
    rows::{Rows, Scratch},
};
use crate::kernels::Kernels;

/// A weight that its scheme multiplies, or else turns into floats a panel at a time, at every pass.
pub(super) struct ForeignWeight {
    tensor: Box<dyn StoredTensor>,
    precision: DType,
    has_product: bool,
}

impl ForeignWeight {
    /// Asks the scheme for the product of one token of zeros, to learn whether it has one.
    pub(super) fn new(tensor: Box<dyn StoredTensor>, precision: DType) -> Result<Self> {
        let mut weight = Self {
            tensor,
            precision,
            has_product: true,
        };
        let (rows, cols) = (weight.tensor.layout().rows(), weight.tensor.layout().cols());
        match weight.scheme_product(&vec![0.0; cols], (rows, cols), &mut vec![0.0; rows]) {
            Ok(()) => {}
            Err(Error::Unsupported(_)) => weight.has_product = false,
            Err(other) => return Err(other),
        }
        Ok(weight)
    }

    pub(super) fn has_product(&self) -> bool {
        self.has_product
    }

    pub(super) fn tensor(&self) -> &dyn StoredTensor {
        self.tensor.as_ref()
    }

    pub(super) fn product(
        &self,
        kernels: Kernels,
        x: &[f32],
        (rows, cols): (usize, usize),
        out: &mut [f32],
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) -> Result<()> {
        if !self.has_product {
            return product(kernels, self.precision, x, self, (rows, cols), out, finish);
        }
        self.scheme_product(x, (rows, cols), out)?;
        for row in out.chunks_exact_mut(rows) {
            finish(row, 0);
        }
        Ok(())
    }

    /// The scheme's own product: input in the precision, output in f32.
    fn scheme_product(&self, x: &[f32], (rows, cols): (usize, usize), out: &mut [f32]) -> Result<()> {
        let tokens = x.len() / cols;
        let mut input = vec![0; x.len() * self.precision.size()];
        narrow(x, self.precision, &mut input)?;
        let mut output = vec![0; out.len() * DType::F32.size()];
        self.tensor.matmul(
            Matrix::new(&input, tokens, cols, self.precision)?,
            &mut MatrixMut::new(&mut output, tokens, rows, DType::F32)?,
            CallContext {
                threads: rayon::current_num_threads(),
            },
        )?;
        widen(&output, DType::F32, out)
    }
}

impl Rows for ForeignWeight {
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        operand: Operand,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8]> {
        dequantize_bytes(self.tensor(), rows, operand, self.precision, scratch)
    }
}
