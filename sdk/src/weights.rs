//! Access to a model's weights, which the host holds and quantises on demand.

use crate::{CallContext, CudaKernel, DType, Layout, Matrix, MatrixMut, Result};

/// A weight as the host holds it. Its memory is freed when the object is dropped: a backend that computes on the
/// buffers keeps it, one that has copied them to a device drops it.
pub trait StoredTensor: Send + Sync {
    /// How the weight is stored.
    fn layout(&self) -> &Layout;

    /// The bytes of buffer `index` in the order of [`Layout::buffers`], 64-byte aligned unless they are mapped from a
    /// file; empty past the last.
    fn buffer(&self, index: usize) -> &[u8];

    /// Writes rows of the weight as floats, through the scheme that stored it.
    ///
    /// # Errors
    /// Those of [`QuantScheme::dequantize`](crate::QuantScheme::dequantize).
    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, context: CallContext) -> Result<()>;

    /// `output = input · Wᵀ` through the scheme that stored the weight.
    ///
    /// # Errors
    /// Those of [`QuantScheme::matmul`](crate::QuantScheme::matmul).
    fn matmul(&self, input: Matrix<'_>, output: &mut MatrixMut<'_>, context: CallContext) -> Result<()>;

    /// The CUDA kernel that the scheme brings for this weight, checked against its layout. Weights of one layout have the
    /// same kernel: a backend compiles it once.
    ///
    /// # Errors
    /// Those of [`QuantScheme::cuda_kernel`](crate::QuantScheme::cuda_kernel).
    fn cuda_kernel(&self) -> Result<Option<CudaKernel>> {
        Ok(None)
    }

    /// All buffers, in the order of [`Layout::buffers`].
    fn buffers(&self) -> Vec<&[u8]> {
        (0..self.layout().buffers().len())
            .map(|index| self.buffer(index))
            .collect()
    }

    /// The weight as a matrix, if it is stored densely in a float type.
    fn dense(&self) -> Option<Matrix<'_>> {
        match self.layout() {
            Layout::Dense(dense) if dense.dtype.is_float() => {
                Matrix::new(self.buffer(0), dense.rows, dense.cols, dense.dtype).ok()
            }
            _ => None,
        }
    }

    /// Element type, for densely stored weights.
    fn dense_dtype(&self) -> Option<DType> {
        match self.layout() {
            Layout::Dense(dense) => Some(dense.dtype),
            _ => None,
        }
    }
}

/// The weights of one model, by the names of its checkpoint. A vector (a norm's weight, a bias) is a matrix of one row.
pub trait Weights: Send + Sync {
    /// All names, sorted.
    ///
    /// # Errors
    /// None of the host's own; the boundary's.
    fn names(&self) -> Result<Vec<String>>;

    /// The weight of that name, stored as the run's mode and the host's policy say.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) naming the checkpoint, or the scheme's error.
    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>>;
}
