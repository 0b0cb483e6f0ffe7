//! The libtorch backend: Mistral and Llama decoders on PyTorch's C++ library, on the CPU and on NVIDIA GPUs.
//!
//! Every operation is torch's, but for products with quantised weights, few tokens, norms, rotations and the gate of the
//! MLP on a GPU, which run on the kernels of `qbench-kernels` unless the option `kernels=torch` says otherwise.
//!
//! This library needs libtorch in the process before it is opened: `qbench-libtorch`, the plugin that the host sees, finds
//! it. It is linked with the CPU libraries alone; there is CUDA where that plugin opened libtorch_cuda as well.

mod attention;
mod backend;
mod context;
mod device;
mod error;
mod gpu;
mod key_values;
mod linear;
mod native;
mod ops;
mod options;
mod tensors;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;

use qbench_sdk::export_plugin;

pub use backend::TorchBackend;

export_plugin!(backends: [TorchBackend::from_options]);
