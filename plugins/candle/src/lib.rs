//! The candle backend: Mistral and Llama decoders on NVIDIA GPUs.
//!
//! candle-core brings the device, its stream and cuBLAS; the kernels are those of `qbench-kernels`, compiled
//! ahead of time, so that nothing is compiled at first use. CUDA's libraries are opened at run time: without a driver
//! the plugin loads and says that there is no device.

mod backend;
mod buffer;
mod driver;
mod error;
mod execution;
mod fp8;
mod gpu;
mod key_values;
mod linear;
mod ops;
mod products;
mod step;
mod together;
mod weight;

use qbench_sdk::{Options, export_plugin};

pub use backend::CandleBackend;

export_plugin!(backends: [|options: &Options| options.finish(&[]).map(|()| CandleBackend)]);
