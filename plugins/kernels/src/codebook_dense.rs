//! Products of very many rows of activations with a block codebook: a tile of rows at a time is dequantised into memory
//! that the caller lends, and multiplied by cuBLAS. No dequantised weight outlives the call.

use cudarc::cublas::{result, sys};

use crate::{CUdeviceptr, CUstream, Codebook, Element, Error, Result, codebook_dequantize::Dequantize};

/// Bytes of memory for [`run`] with tiles of `rows` rows.
pub fn workspace(weight: &Codebook, rows: usize, element: Element) -> usize {
    rows.min(weight.rows) * weight.cols * element.size()
}

/// `y = x · weightᵀ`: `x` `[tokens, cols]`, `y` `[tokens, weight.rows]`, both of type `element`, aligned to 16 bytes;
/// `rows` of the weight at a time, a multiple of 8.
///
/// # Safety
/// The buffers of `weight` are those of its shape; `x` and `y` are as long as said; `memory` is as long as
/// [`workspace`] says; `blas` is a cuBLAS handle that works on `stream`.
///
/// # Errors
/// [`Error::Driver`], [`Error::Blas`].
#[expect(
    clippy::too_many_arguments,
    reason = "a product has three matrices, sizes, a type, memory and a stream"
)]
pub unsafe fn run(
    dequantize: &Dequantize,
    blas: sys::cublasHandle_t,
    weight: &Codebook,
    rows: usize,
    x: CUdeviceptr,
    tokens: usize,
    y: CUdeviceptr,
    element: Element,
    memory: CUdeviceptr,
    stream: CUstream,
) -> Result<()> {
    let (one, zero) = (1.0_f32, 0.0_f32);
    let data_type = match element {
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::BF16 => sys::cudaDataType::CUDA_R_16BF,
    };
    let mut first = 0;
    while first < weight.rows && tokens > 0 {
        let last = (first + rows).min(weight.rows);
        // SAFETY: as the caller promises; column-major as cuBLAS sees them, its matrices are `memory` transposed, `x`
        // and rows `first..last` of `y` transposed.
        unsafe {
            dequantize.run(weight, first..last, memory, element, stream)?;
            result::gemm_ex(
                blas,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                (last - first) as i32,
                tokens as i32,
                weight.cols as i32,
                (&raw const one).cast(),
                memory as *const _,
                data_type,
                weight.cols as i32,
                x as *const _,
                data_type,
                weight.cols as i32,
                (&raw const zero).cast(),
                (y + (first * element.size()) as u64) as *mut _,
                data_type,
                weight.rows as i32,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|error| Error::Blas {
            call: "cublasGemmEx",
            status: format!("{:?}", error.0),
        })?;
        first = last;
    }
    Ok(())
}
