//! Products of activations with one weight: with dense values, codes of a codebook, and int8.

mod codebook;
mod dense;
mod int8;

use qbench_kernels::{CUdeviceptr, Element};

pub(crate) use codebook::{multiplies_codes, multiply_codebook};
pub(crate) use dense::multiply_dense;
pub(crate) use int8::multiply_int8;

/// Activations of a product, `[tokens, cols]`.
#[derive(Clone, Copy)]
pub(crate) struct Input {
    pub(crate) address: CUdeviceptr,
    pub(crate) tokens: usize,
    pub(crate) element: Element,
}

/// Where a product goes, `[tokens, rows]`.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) address: CUdeviceptr,
    pub(crate) element: Element,
}
