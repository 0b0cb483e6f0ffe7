//! Whole rows: gathered by index (embeddings, last positions), or averaged over a sequence.

use crate::{
    CUdeviceptr, CUstream, Element, Function, Module, Result,
    driver::{arguments, fatbin},
    packs::{PackedKernel, packed_kernel},
};

const MEAN_THREADS: u32 = 256;
/// Columns that a block of the mean takes, as in `cuda/rows.cu`.
const MEAN_COLUMNS: usize = 32;

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Rows {
    gather: PackedKernel,
    mean: [Function; 3],
    _module: Module,
}

impl Rows {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("rows"))?;
        let mean = |element: Element| module.function(&format!("mean_rows_{}", element.name()));
        Ok(Self {
            gather: packed_kernel(&module, "gather_rows")?,
            mean: [mean(Element::F32)?, mean(Element::F16)?, mean(Element::BF16)?],
            _module: module,
        })
    }

    /// Writes row `indices[i]` of `table` to row `i` of `out`, for `count` indices.
    ///
    /// # Safety
    /// `indices` are `count` u32 values, each below the rows of `table`; `table` and `out` are rows of `width` elements,
    /// aligned to 16 bytes.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[expect(clippy::too_many_arguments, reason = "what the operation is made of")]
    pub unsafe fn gather(
        &self,
        table: CUdeviceptr,
        indices: CUdeviceptr,
        out: CUdeviceptr,
        count: usize,
        width: usize,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let (function, pack) = self.gather.pick(element, width);
        let threads = width.div_ceil(pack).next_multiple_of(32).min(256);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            function.launch(
                [count as u32, 1, 1],
                threads as u32,
                0,
                stream,
                arguments![&table, &indices, &out, &(width as i32)],
            )
        }
    }

    /// Writes the mean over the tokens of each sequence to `out`, f32 `[batch, width]`; zeros for a sequence of padding.
    /// Sums are f64.
    ///
    /// # Safety
    /// `x` is `[batch · length, width]` elements. `mask` points to the first of `length` bytes of the first sequence;
    /// those of the next lie `mask_stride` bytes further. `out` is `[batch, width]` f32 values.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[expect(clippy::too_many_arguments, reason = "what the operation is made of")]
    pub unsafe fn mean(
        &self,
        x: CUdeviceptr,
        mask: CUdeviceptr,
        mask_stride: usize,
        out: CUdeviceptr,
        (batch, length, width): (usize, usize, usize),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            self.mean[element as usize].launch(
                [width.div_ceil(MEAN_COLUMNS) as u32, batch as u32, 1],
                MEAN_THREADS,
                0,
                stream,
                arguments![
                    &x,
                    &mask,
                    &(mask_stride as i64),
                    &out,
                    &(length as i32),
                    &(width as i32),
                ],
            )
        }
    }
}
