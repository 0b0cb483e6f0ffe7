//! Errors of CUDA as the sdk's.

use candle_core::cuda_backend::cudarc::{
    cublas::result::CublasError,
    driver::{DriverError, sys::CUresult},
};
use qbench_sdk::Error;

/// What the driver said, for memory that was not asked for in a known size. `Gpu::allocation_error` says more.
pub(crate) fn driver(error: DriverError) -> Error {
    from_code(error.0, || error.to_string())
}

pub(crate) fn kernel(error: qbench_kernels::Error) -> Error {
    match error {
        qbench_kernels::Error::Unsupported(text) => Error::Unsupported(text),
        qbench_kernels::Error::Source(text) => Error::InvalidArgument(text),
        qbench_kernels::Error::Driver { code, .. } => {
            // A launch may fail for want of memory too: a kernel's local memory, a module's code.
            if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32 {
                Error::OutOfMemory(error.to_string())
            } else {
                Error::Internal(
                    lost(code).map_or_else(|| error.to_string(), |what| format!("{what}: {error}")),
                )
            }
        }
        other => Error::Internal(other.to_string()),
    }
}

pub(crate) fn blas(error: CublasError) -> Error {
    Error::Internal(format!("cuBLAS: {error}"))
}

fn from_code(code: CUresult, text: impl FnOnce() -> String) -> Error {
    if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Error::OutOfMemory(text());
    }
    match lost(code as u32) {
        Some(what) => Error::Internal(format!("{what}: {}", text())),
        None => Error::Internal(text()),
    }
}

/// Codes after which the process gets no answer from the GPU any more.
fn lost(code: u32) -> Option<&'static str> {
    const LOST: [CUresult; 5] = [
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
        CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
        CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
        CUresult::CUDA_ERROR_UNKNOWN,
    ];
    LOST.iter()
        .any(|known| *known as u32 == code)
        .then_some("the GPU failed or was lost (the system's log may hold an Xid of its driver)")
}
