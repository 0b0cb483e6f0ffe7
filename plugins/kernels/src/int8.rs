//! A weight matrix in signed bytes with a scale a row, in device memory.

use qbench_sdk::layout::Int8Vectorwise;

use crate::CUdeviceptr;

/// A matrix in the layout `qbench.int8-vectorwise/1`: device pointers to its buffers.
#[derive(Clone, Copy, Debug)]
pub struct Int8 {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// i8, `[rows, cols]`, aligned to 16 bytes.
    pub codes: CUdeviceptr,
    /// f32, `[rows]`.
    pub scales: CUdeviceptr,
    /// f32, one: activations of this magnitude and more are outliers; none when it is 0.
    pub threshold: CUdeviceptr,
}

impl Int8 {
    /// A matrix of this layout whose buffers lie at these addresses, in the layout's order.
    pub fn at(layout: &Int8Vectorwise, [codes, scales, threshold]: [CUdeviceptr; 3]) -> Self {
        Self {
            rows: layout.rows,
            cols: layout.cols,
            codes,
            scales,
            threshold,
        }
    }
}
