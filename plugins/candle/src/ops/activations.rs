//! What goes from one operation to the next.

use qbench_kernels::CUdeviceptr;

use crate::{buffer::Buffer, fp8::Kept};

/// Activations `[rows, width]`; nobody else holds the buffer, so kernels may write where it is read.
pub(crate) struct Activations {
    pub(super) buffer: Buffer,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Whether heads are still to be turned by the pass's angles: the attention of a step does it.
    pub(super) to_turn: bool,
    /// What products made of them.
    pub(super) kept: Kept,
}

impl Activations {
    pub(super) fn new(buffer: Buffer, rows: usize, width: usize) -> Self {
        Self {
            buffer,
            rows,
            width,
            kept: Kept::new(),
            to_turn: false,
        }
    }

    /// The same after other values were written: what products made of the old ones is dropped.
    pub(super) fn written(self) -> Self {
        Self::new(self.buffer, self.rows, self.width)
    }

    pub(super) fn address(&self) -> CUdeviceptr {
        self.buffer.address()
    }
}
