//! Codes to dense elements, bit for bit what the layout's reference decoder gives.

use std::ops::Range;

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Error, Function, Module, Result,
    codebook::ScalesArgument,
    driver::{arguments, fatbin, multiprocessors},
};

/// Weights that one launch can turn into elements.
pub const MOST_WEIGHTS: usize = 3;

// As in `cuda/codebook_dequantize.cu`.
const THREADS: u32 = 256;
/// Words of codes a thread in the fast kernel.
const WORDS: usize = 2;
/// Elements a word.
const STEP: usize = 8;
/// Blocks of threads that a multiprocessor has room for.
const BLOCKS: u32 = 8;

/// `struct Flat` of `cuda/codebook_dequantize.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Flat {
    out: CUdeviceptr,
    codes: CUdeviceptr,
    table: CUdeviceptr,
    scales: ScalesArgument,
    first: u64,
    count: u64,
    block_shift: u32,
    low_first: u32,
}

impl Flat {
    /// Rows of a weight; `None` where the fast kernel cannot.
    fn new(weight: &Codebook, rows: &Range<usize>, out: CUdeviceptr) -> Option<Self> {
        let first = rows.start * weight.cols;
        let fast = weight.is_flat()
            && weight.block.is_power_of_two()
            && weight.block >= STEP
            && first.is_multiple_of(STEP);
        fast.then(|| Self {
            out,
            codes: weight.codes,
            table: weight.table,
            scales: weight.scales.argument(),
            first: first as u64,
            count: (rows.len() * weight.cols) as u64,
            block_shift: weight.block.trailing_zeros(),
            low_first: u32::from(weight.low_first),
        })
    }
}

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
    /// [`Error::Driver`].
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
        if let Some(flat) = Flat::new(weight, &rows, out) {
            // SAFETY: as the caller promises.
            unsafe { self.run_flat(&[flat], element, stream) }
        } else {
            let scales = weight.scales.argument();
            let low_first = u32::from(weight.low_first);
            let blocks = count.div_ceil(THREADS as usize).min(self.blocks as usize);
            let row_blocks = if weight.per_row {
                weight.cols.div_ceil(weight.block)
            } else {
                0
            };
            // SAFETY: types and order are those of the kernel; memory is as the caller promises.
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

    /// Whether [`run_together`](Self::run_together) can turn all these weights into elements.
    pub fn fits_together(weights: &[&Codebook]) -> bool {
        (1..=MOST_WEIGHTS).contains(&weights.len())
            && weights
                .iter()
                .all(|weight| Flat::new(weight, &(0..weight.rows), 0).is_some())
    }

    /// As [`run`](Self::run) for all rows of each weight, in one launch.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`fits_together`](Self::fits_together) says no; [`Error::Driver`].
    pub unsafe fn run_together(
        &self,
        weights: &[(&Codebook, CUdeviceptr)],
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let parts: Option<Vec<Flat>> = weights
            .iter()
            .map(|(weight, out)| Flat::new(weight, &(0..weight.rows), *out))
            .collect();
        let Some(parts) = parts.filter(|parts| (1..=MOST_WEIGHTS).contains(&parts.len())) else {
            return Err(Error::Unsupported(format!(
                "codebook_dequantize: {weights:?} at once"
            )));
        };
        // SAFETY: as the caller promises.
        unsafe { self.run_flat(&parts, element, stream) }
    }

    /// One to [`MOST_WEIGHTS`] parts.
    unsafe fn run_flat(&self, parts: &[Flat], element: Element, stream: CUstream) -> Result<()> {
        let most = parts.iter().map(|part| part.count as usize).max().unwrap_or(0);
        let blocks = most.div_ceil(STEP * WORDS * THREADS as usize);
        if blocks == 0 {
            return Ok(());
        }
        let mut all = [parts[0]; MOST_WEIGHTS];
        all[..parts.len()].copy_from_slice(parts);
        // SAFETY: the one argument is the kernel's; memory is as the caller promises. Before its wait, the kernel reads
        // nothing but the weights.
        unsafe {
            self.flat[element as usize].launch_overlapping(
                [blocks as u32, parts.len() as u32, 1],
                THREADS,
                0,
                stream,
                arguments![&all],
            )
        }
    }
}
