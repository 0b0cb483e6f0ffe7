//! What can go wrong when a kernel is loaded or launched.

use std::ffi::CStr;

use cudarc::driver::sys;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver's library cannot be opened.
    #[error("the NVIDIA driver's library (libcuda.so.1) is not here")]
    NoDriver,
    /// The driver refused a call.
    #[error("{call}: {name} ({code}): {message}")]
    Driver {
        /// The driver's function, with the kernel's name where there is one.
        call: String,
        /// The driver's number, as `CUresult`.
        code: u32,
        /// The driver's name for it, such as `CUDA_ERROR_OUT_OF_MEMORY`.
        name: String,
        /// The driver's words for it.
        message: String,
    },
    /// cuBLAS refused a call.
    #[error("{call}: {status}")]
    Blas {
        /// cuBLAS's function.
        call: &'static str,
        /// cuBLAS's status.
        status: String,
    },
    /// The run-time compiler refused a call.
    #[error("{call}: {status}")]
    Compiler {
        /// NVRTC's function.
        call: &'static str,
        /// Its result.
        status: String,
    },
    /// A kernel that a scheme brings is wrong: what the compiler says, or what its description lacks.
    #[error("{0}")]
    Source(String),
    /// A kernel cannot do what is asked; a more general one may.
    #[error("{0}")]
    Unsupported(String),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns the driver's answer to `call` into a result.
pub(crate) fn check(result: sys::CUresult, call: impl FnOnce() -> String) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(Error::Driver {
        call: call(),
        code: result as u32,
        name: text(result, sys::cuGetErrorName),
        message: text(result, sys::cuGetErrorString),
    })
}

type TextOf = unsafe fn(sys::CUresult, *mut *const core::ffi::c_char) -> sys::CUresult;

fn text(result: sys::CUresult, text_of: TextOf) -> String {
    let mut text = std::ptr::null();
    // SAFETY: `text` is a place for one pointer; the driver is loaded, since it gave the result.
    let known = unsafe { text_of(result, &raw mut text) };
    if known != sys::CUresult::CUDA_SUCCESS || text.is_null() {
        return "unknown".to_owned();
    }
    static_text(text)
}

/// A text of the driver.
pub(crate) fn static_text(text: *const core::ffi::c_char) -> String {
    // SAFETY: the driver's texts are static and end with a zero byte.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
