//! The reference backend: Mistral and Llama decoders on the CPU, exact first, then fast.
//!
//! Activations are f32 buffers whose values are rounded to the precision. Weights stay as they are stored, once; a matrix
//! product takes a panel of rows at a time, decodes it where it is coded, and multiplies it by the best instructions of
//! the processor (`qbench-cpu-kernels`), with sums in f32, or, for `8bit`, exact ones in i32. The option `kernels=reference`
//! uses the `gemm` crate on f32 instead, the oracle of the other kernels.
//!
//! How a sum is ordered depends on the shapes and the instruction set alone: results are the same bits for any number of
//! threads.

mod allocator;
mod attention;
mod backend;
mod elementwise;
mod kernels;
mod linear;
mod machine;
mod ops;
mod parallel;

#[cfg(test)]
mod tests;

use qbench_sdk::{Options, export_plugin};

pub use backend::CpuBackend;
pub use kernels::Kernels;

/// What the benchmark times beside the products; no part of what the crate offers.
#[doc(hidden)]
pub mod passes {
    pub use crate::attention::{Sequence, attention};
    pub use crate::elementwise::{add, rms_norm, rope, silu_times};
}

export_plugin!(backends: [|options: &Options| Kernels::from_options(options).map(CpuBackend::new)]);
