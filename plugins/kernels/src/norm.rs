//! Root mean square norms, with the residual sum before them where there is one.

use crate::{
    CUdeviceptr, CUstream, Element, Function, Module, Result,
    driver::{arguments, fatbin},
    packs::{PackedKernel, packed_kernel},
};

/// The kernel, loaded into one context.
#[derive(Debug)]
pub struct Norm {
    kernel: PackedKernel,
    _module: Module,
}

impl Norm {
    /// Loads the kernel into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("norm"))?;
        Ok(Self {
            kernel: packed_kernel(&module, "rms_norm")?,
            _module: module,
        })
    }

    /// Writes `x / sqrt(mean(x²) + eps) · weight` to `out`, for rows of `width` elements; with `delta`, `x` becomes
    /// `x + delta`, rounded, before.
    ///
    /// # Safety
    /// `x`, `delta` and `out` are `rows · width` elements, `weight` is `width` f32 values; all are aligned to 16 bytes.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[expect(clippy::too_many_arguments, reason = "what the operation is made of")]
    pub unsafe fn run(
        &self,
        x: CUdeviceptr,
        delta: Option<CUdeviceptr>,
        weight: CUdeviceptr,
        eps: f32,
        out: CUdeviceptr,
        (rows, width): (usize, usize),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let (function, pack): (Function, usize) = self.kernel.pick(element, width);
        let threads = width.div_ceil(pack).next_multiple_of(32).min(512);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            function.launch_overlapping(
                [rows as u32, 1, 1],
                threads as u32,
                0,
                stream,
                arguments![&x, &delta.unwrap_or(0), &weight, &out, &(width as i32), &eps],
            )
        }
    }
}
