//! Dense products, with sums in f32: a few tokens by our own kernel, more by cuBLAS. On an H200 the
//! kernel halved the time of a decoded token at GenomeOcean-100M's shape and added 4 % at GenomeOcean-4B's.

use std::ffi::c_void;

use candle_core::cuda_backend::cudarc::cublas::{
    result,
    sys::{cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType},
};
use qbench_kernels::{CUdeviceptr, Element, dense_few::Shape};
use qbench_sdk::Result;

use crate::{error, gpu::Gpu};

fn data_type(element: Element) -> cudaDataType {
    match element {
        Element::F32 => cudaDataType::CUDA_R_32F,
        Element::F16 => cudaDataType::CUDA_R_16F,
        Element::BF16 => cudaDataType::CUDA_R_16BF,
    }
}

/// Writes `x · Wᵀ`, rounded once to `out_element`, to `out`. Products of f32 are f32 products: TF32 is off.
///
/// # Safety
/// The addresses name memory of the shape's sizes: `x` and `weight` of `element`, `out` of `out_element`. A weight that is
/// `settled` was not written by the kernel launched last: it may be read while that runs.
pub(crate) unsafe fn multiply_dense(
    gpu: &Gpu,
    shape: Shape,
    (x, weight, element): (CUdeviceptr, CUdeviceptr, Element),
    (out, out_element): (CUdeviceptr, Element),
    settled: bool,
) -> Result<()> {
    if shape.fits() {
        let (few, operands) = (&gpu.kernels.dense_few, (x, weight, element));
        // SAFETY: as the caller promises; buffers and rows of whole packs are aligned.
        return unsafe { few.run(shape, operands, (out, out_element), settled, gpu.stream()) }
            .map_err(error::kernel);
    }
    let (one, zero) = (1.0_f32, 0.0_f32);
    // cuBLAS stores matrices by columns: what is Wᵀ there is our W, and its result by columns is ours by rows.
    // SAFETY: as the caller promises; the factors are f32, as the compute type asks.
    unsafe {
        result::gemm_ex(
            gpu.blas(),
            cublasOperation_t::CUBLAS_OP_T,
            cublasOperation_t::CUBLAS_OP_N,
            shape.rows as i32,
            shape.tokens as i32,
            shape.cols as i32,
            (&raw const one).cast::<c_void>(),
            weight as *const c_void,
            data_type(element),
            shape.cols as i32,
            x as *const c_void,
            data_type(element),
            shape.cols as i32,
            (&raw const zero).cast::<c_void>(),
            out as *mut c_void,
            data_type(out_element),
            shape.rows as i32,
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(error::blas)
}
