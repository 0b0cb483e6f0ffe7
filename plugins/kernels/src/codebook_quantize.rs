//! Dense elements to a block codebook, bit for bit what bitsandbytes computes on a CPU.

use crate::{
    CUdeviceptr, CUstream, Element, Function, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
};

const THREADS: usize = 256;

/// How a number between -1 and 1 finds its code: the buckets are the intervals between ascending bounds, a bound
/// belonging to the bucket below it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Buckets {
    /// Upper ends of the buckets 0 to 14.
    pub bounds: [f32; 15],
    /// Code of each bucket.
    pub codes: [u32; 16],
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Quantize {
    elements: [Function; 3],
    mean: Function,
    scales: Function,
    blocks: usize,
    _module: Module,
}

impl Quantize {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("codebook_quantize"))?;
        let kernel = |element: Element| module.function(&format!("codebook_quantize_{}", element.name()));
        Ok(Self {
            elements: [
                kernel(Element::F32)?,
                kernel(Element::F16)?,
                kernel(Element::BF16)?,
            ],
            mean: module.function("codebook_quantize_mean")?,
            scales: module.function("codebook_quantize_scales")?,
            blocks: multiprocessors()? as usize * 8,
            _module: module,
        })
    }

    /// Writes the codes of `count` elements at `x`, two a byte with the first in the upper half, to `codes`, and the
    /// largest magnitude of each `block` of them, as f32, to `scales`.
    ///
    /// # Safety
    /// `x` has `count` elements, `codes` room for `⌈count / 2⌉` bytes, `scales` for `⌈count / block⌉` values; `block`
    /// is even.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[expect(clippy::too_many_arguments, reason = "one input, two outputs, and how")]
    pub unsafe fn run(
        &self,
        x: CUdeviceptr,
        element: Element,
        count: usize,
        block: usize,
        buckets: &Buckets,
        codes: CUdeviceptr,
        scales: CUdeviceptr,
        stream: CUstream,
    ) -> Result<()> {
        let blocks = (count.div_ceil(block) * 32).div_ceil(THREADS).min(self.blocks);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            self.elements[element as usize].launch(
                [blocks as u32, 1, 1],
                THREADS as u32,
                0,
                stream,
                arguments![&codes, &scales, &x, &(count as u64), &(block as u32), buckets],
            )
        }
    }

    /// Codes `count` scales in 8 bits: their mean to `offset`, and for every `block` of them their largest distance from
    /// it to `second` and their codes in the 256 values of `table` to `codes`.
    ///
    /// # Safety
    /// `scales` has `count` f32 values, `table` 256; `codes` has room for `count` bytes, `second` for
    /// `⌈count / block⌉` f32 values, `offset` for one.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[expect(clippy::too_many_arguments, reason = "two inputs, three outputs, and how")]
    pub unsafe fn run_scales(
        &self,
        scales: CUdeviceptr,
        count: usize,
        block: usize,
        table: CUdeviceptr,
        codes: CUdeviceptr,
        second: CUdeviceptr,
        offset: CUdeviceptr,
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: types and order are those of the kernels; memory is as the caller promises.
        unsafe {
            self.mean.launch(
                [1, 1, 1],
                32,
                0,
                stream,
                arguments![&offset, &scales, &(count as u32)],
            )?;
            self.scales.launch(
                [count.div_ceil(block) as u32, 1, 1],
                256,
                0,
                stream,
                arguments![
                    &codes,
                    &second,
                    &scales,
                    &offset,
                    &table,
                    &(count as u32),
                    &(block as u32)
                ],
            )
        }
    }
}
