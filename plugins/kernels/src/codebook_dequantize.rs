//! Codes to dense elements, bit for bit what the layout's reference decoder gives.

use std::ops::Range;

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Function, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
};

const THREADS: u32 = 256;
/// Elements a thread in the fast kernel.
const STEP: usize = 8;
/// Blocks of threads that a multiprocessor has room for.
const BLOCKS: u32 = 5;

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Dequantize {
    flat: [Function; 3],
    any: [Function; 3],
    blocks: u32,
    _module: Module,
}

impl Dequantize {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("codebook_dequantize"))?;
        let kernels = |kind: &str| -> Result<[Function; 3]> {
            let kernel =
                |element: Element| module.function(&format!("codebook_dequantize_{kind}_{}", element.name()));
            Ok([
                kernel(Element::F32)?,
                kernel(Element::F16)?,
                kernel(Element::BF16)?,
            ])
        };
        Ok(Self {
            flat: kernels("flat")?,
            any: kernels("any")?,
            blocks: multiprocessors()? * BLOCKS,
            _module: module,
        })
    }

    /// Writes the elements of `rows` of `weight` to `out`, row-major.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape, `rows` lie within it, and `out` has room for their elements and
    /// is aligned to 16 bytes. The kernel launched last on `stream` does not write the weight: it is read while that may
    /// still run.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn run(
        &self,
        weight: &Codebook,
        rows: Range<usize>,
        out: CUdeviceptr,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let count = rows.len() * weight.cols;
        if count == 0 {
            return Ok(());
        }
        let scales = weight.scales.argument();
        let low_first = u32::from(weight.low_first);
        let first = rows.start * weight.cols;
        let fast = weight.is_flat()
            && weight.block.is_power_of_two()
            && weight.block >= STEP
            && first.is_multiple_of(STEP);
        if fast {
            let blocks = count.div_ceil(STEP * THREADS as usize).min(self.blocks as usize);
            // SAFETY: types and order are those of the kernel; memory is as the caller promises.
            unsafe {
                self.flat[element as usize].launch_overlapping(
                    [blocks as u32, 1, 1],
                    THREADS,
                    0,
                    stream,
                    arguments![
                        &out,
                        &weight.codes,
                        &weight.table,
                        &scales,
                        &(first as u64),
                        &(count as u64),
                        &weight.block.trailing_zeros(),
                        &low_first,
                    ],
                )
            }
        } else {
            let blocks = count.div_ceil(THREADS as usize).min(self.blocks as usize);
            let row_blocks = if weight.per_row {
                weight.cols.div_ceil(weight.block)
            } else {
                0
            };
            // SAFETY: as above.
            unsafe {
                self.any[element as usize].launch_overlapping(
                    [blocks as u32, 1, 1],
                    THREADS,
                    0,
                    stream,
                    arguments![
                        &out,
                        &weight.codes,
                        &weight.table,
                        &scales,
                        &(rows.start as u64),
                        &(rows.len() as u64),
                        &(weight.cols as u32),
                        &(weight.block as u32),
                        &(row_blocks as u32),
                        &low_first,
                    ],
                )
            }
        }
    }
}
