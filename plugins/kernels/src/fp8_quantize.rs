//! Activations become e4m3, a token at a time, with a scale of its own: the bits of the sdk's `layout::fp8::quantize_row`
//! (a NaN's sign apart).

use crate::{
    CUdeviceptr, CUstream, Element, Module, Result,
    driver::{arguments, fatbin},
    fp8::Activations,
    packs::{PackedKernel, packed_kernel},
};

/// Packs of a row that a thread keeps, as in `cuda/fp8_quantize.cu`.
const HELD: usize = 4;
const MOST_THREADS: usize = 512;

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Quantize {
    plain: PackedKernel,
    gated: PackedKernel,
    _module: Module,
}

impl Quantize {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`]; they need compute capability 8.9.
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("fp8_quantize"))?;
        Ok(Self {
            plain: packed_kernel(&module, "fp8_quantize")?,
            gated: packed_kernel(&module, "fp8_quantize_gated")?,
            _module: module,
        })
    }

    /// Quantises `tokens` rows of `cols` elements at `x` into `to`.
    ///
    /// # Safety
    /// `x` is `[tokens, cols]` of `element`, aligned to 16 bytes; `to` was divided for the same sizes.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn run(
        &self,
        x: CUdeviceptr,
        (tokens, cols): (usize, usize),
        element: Element,
        to: &Activations,
        stream: CUstream,
    ) -> Result<()> {
        let (function, pack) = self.plain.pick(element, cols);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            function.launch_overlapping(
                [tokens as u32, 1, 1],
                threads(cols, pack),
                0,
                stream,
                arguments![&x, &to.codes, &to.scales, &(cols as i32), &(to.pitch as i32)],
            )
        }
    }

    /// Quantises `silu(gate) · up`, rounded to `element` before, as
    /// [`silu_product`](crate::elementwise::Elementwise::silu_product) does.
    ///
    /// # Safety
    /// As for [`run`](Self::run), of both.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn run_gated(
        &self,
        (gate, up): (CUdeviceptr, CUdeviceptr),
        (tokens, cols): (usize, usize),
        element: Element,
        to: &Activations,
        stream: CUstream,
    ) -> Result<()> {
        let (function, pack) = self.gated.pick(element, cols);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            function.launch_overlapping(
                [tokens as u32, 1, 1],
                threads(cols, pack),
                0,
                stream,
                arguments![
                    &gate,
                    &up,
                    &to.codes,
                    &to.scales,
                    &(cols as i32),
                    &(to.pitch as i32)
                ],
            )
        }
    }
}

/// So many that each keeps what it has of a row, where that is possible.
fn threads(cols: usize, pack: usize) -> u32 {
    cols.div_ceil(pack * HELD)
        .next_multiple_of(32)
        .clamp(32, MOST_THREADS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_up_to_16384_elements_are_kept() {
        assert_eq!(threads(16_384, 8), 512);
        assert_eq!(threads(3072, 8), 96);
        assert_eq!(threads(1, 1), 32);
        assert_eq!(threads(1 << 20, 8), 512);
    }
}
