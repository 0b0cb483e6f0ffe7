//! The reference backend: Mistral and Llama decoders on the CPU, exact first, then fast.
//!
//! Activations are f32 buffers whose values are rounded to the precision. Weights stay as they are stored; a matrix
//! product widens or decodes a panel of rows at a time and hands it to the `gemm` crate, so that products of bf16, f16
//! and 4-bit weights accumulate in f32. Work is cut into pieces whose size depends on the shapes alone: results are the
//! same bits for any number of threads.

mod allocator;
mod attention;
mod backend;
mod elementwise;
mod linear;
mod machine;
mod matrix;
mod ops;

#[cfg(test)]
mod tests;

use qbench_sdk::{Options, export_plugin};

pub use backend::CpuBackend;

export_plugin!(backends: [|options: &Options| options.finish(&[]).map(|()| CpuBackend)]);
