//! CUDA kernels and their launchers, shared by the backends that run on NVIDIA GPUs.
//!
//! The kernels are compiled ahead of time (`build-kernels`) and carried in the library: nothing is compiled on the
//! user's machine but what schemes bring (`scheme_kernel`). The driver is opened at run time, so a program that links this
//! crate starts without one.
//!
//! Launchers take device pointers and a stream of the current context as the driver knows them, whoever made them. They
//! allocate nothing and wait for nothing: memory for intermediate results is passed in, of a size that a function of the
//! same name tells. Every source in `cuda/` is one concept, with a launcher module of the same name here.

pub mod attention;
pub mod attention_step;
mod codebook;
pub mod codebook_dequantize;
pub mod codebook_few;
mod codebook_few_any;
pub mod codebook_many;
pub mod codebook_quantize;
pub mod dense_few;
pub mod device;
mod driver;
pub mod elementwise;
mod error;
mod fp8;
pub mod fp8_product;
pub mod fp8_quantize;
mod int8;
pub mod int8_any;
pub mod int8_few;
pub mod int8_many;
pub mod int8_quantize;
pub mod libraries;
pub mod norm;
mod packs;
pub mod read;
pub mod rope;
pub mod rows;
pub mod scheme_kernel;
mod tensor_map;

pub use codebook::{Codebook, Scales};
pub use driver::{Element, Function, Module};
pub use error::{Error, Result};
pub use fp8::{Activations as Fp8Activations, Fp8};
pub use int8::Int8;

/// The driver's own types in the launchers' signatures.
pub use cudarc::driver::sys::{CUdeviceptr, CUstream};
