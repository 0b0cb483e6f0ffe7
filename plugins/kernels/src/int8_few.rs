//! LLM.int8()'s product for 1 to 4 rows of activations, which it quantises itself: bound by reading the weight once.

use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;

use crate::{
    CUdeviceptr, CUstream, Element, Error, Function, Int8, Module, Result,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
};

/// The most rows of activations.
pub const MOST_TOKENS: usize = 4;

/// Weights that one launch can multiply with.
pub const MOST_WEIGHTS: usize = 3;

// As in `cuda/int8_few.cu`.
const THREADS: u32 = 768;
/// Codes that a lane reads at once: rows are whole numbers of them.
const WORD: usize = 16;
/// Shared memory that the kernels name themselves.
const STATIC_BYTES: usize = 992;

/// `struct Part` of `cuda/int8_few.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    codes: CUdeviceptr,
    scales: CUdeviceptr,
    y: CUdeviceptr,
    rows: u32,
    first_row: u32,
}

/// `struct Few` of `cuda/int8_few.cu`.
#[repr(C)]
struct Arguments {
    parts: [Part; MOST_WEIGHTS],
    x: CUdeviceptr,
    threshold: CUdeviceptr,
    tokens: u32,
    cols: u32,
    rows: u32,
    gated: u32,
}

/// The kernels, loaded into one context: for one row of activations, and for up to four.
#[derive(Debug)]
pub struct Few {
    bf16: [Function; 2],
    f16: [Function; 2],
    multiprocessors: usize,
    shared: usize,
    _module: Module,
}

impl Few {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("int8_few"))?;
        let shared =
            device_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize - STATIC_BYTES;
        let kernel = |element: Element, tokens: usize| -> Result<Function> {
            let function = module.function(&format!("int8_few_{}_{tokens}", element.name()))?;
            function.allow_shared_memory(shared as u32)?;
            Ok(function)
        };
        let kernels = |element| Ok([kernel(element, 1)?, kernel(element, MOST_TOKENS)?]);
        Ok(Self {
            bf16: kernels(Element::BF16)?,
            f16: kernels(Element::F16)?,
            multiprocessors: multiprocessors()? as usize,
            shared,
            _module: module,
        })
    }

    /// Bytes of shared memory: activations as they are and quantised, and a bit a column.
    fn bytes(tokens: usize, cols: usize) -> usize {
        tokens * cols * 3 + cols.div_ceil(32) * 4
    }

    /// Whether there is a kernel for such a weight and activations of this type, if they find room.
    pub fn knows(weight: &Int8, element: Element) -> bool {
        element != Element::F32 && weight.cols > 0 && weight.cols.is_multiple_of(WORD)
    }

    /// Whether [`run`](Self::run) can multiply `tokens` rows of activations of this type with `weight`.
    pub fn fits(&self, weight: &Int8, tokens: usize, element: Element) -> bool {
        Self::knows(weight, element)
            && (1..=MOST_TOKENS).contains(&tokens)
            && Self::bytes(tokens, weight.cols) <= self.shared
    }

    /// `y = x · weightᵀ` for each weight and its `y`, in one launch: `x` `[tokens, cols]`, `y` `[tokens, rows]`, all of type
    /// `element`, aligned to 16 bytes. If they are `gated`, they are two of as many rows, and where the first's product
    /// should go goes `silu(first) · second`, both products rounded first.
    ///
    /// The bits are those of [`int8_quantize`](crate::int8_quantize) and [`int8_many`](crate::int8_many) where there is no
    /// outlier; sums over outlier columns are in f32.
    ///
    /// # Safety
    /// The buffers of the weights are those of their shapes, and their thresholds are equal; `x` and `y` are as long as
    /// said. The kernel launched last on `stream` does not write the weights: they are read while that may still run.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`fits`](Self::fits) says no, for no weight or more than [`MOST_WEIGHTS`], or of other
    /// columns; [`Error::Driver`].
    pub unsafe fn run(
        &self,
        weights: &[(&Int8, CUdeviceptr)],
        gated: bool,
        (x, tokens): (CUdeviceptr, usize),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let suits = |(weight, _): &(&Int8, CUdeviceptr)| {
            weight.cols == weights[0].0.cols && self.fits(weight, tokens, element)
        };
        if !(1..=MOST_WEIGHTS).contains(&weights.len())
            || !weights.iter().all(suits)
            || gated && (weights.len() != 2 || weights[0].0.rows != weights[1].0.rows)
        {
            return Err(Error::Unsupported(format!(
                "int8_few: {tokens} tokens, {weights:?}"
            )));
        }
        let (first, _) = weights[0];
        let mut rows = 0;
        let mut part = weights.iter();
        let parts = [(); MOST_WEIGHTS].map(|()| match part.next() {
            Some((weight, y)) => {
                let first_row = rows;
                rows += weight.rows as u32;
                Part {
                    codes: weight.codes,
                    scales: weight.scales,
                    y: *y,
                    rows: weight.rows as u32,
                    first_row,
                }
            }
            None => Part {
                codes: 0,
                scales: 0,
                y: 0,
                rows: 0,
                first_row: u32::MAX,
            },
        });
        if rows == 0 {
            return Ok(());
        }
        let arguments = Arguments {
            parts,
            x,
            threshold: first.threshold,
            tokens: tokens as u32,
            cols: first.cols as u32,
            rows,
            gated: u32::from(gated),
        };
        let functions = if element == Element::BF16 {
            &self.bf16
        } else {
            &self.f16
        };
        let shared = Self::bytes(tokens, first.cols) as u32;
        // SAFETY: the one argument is the kernel's; memory is as the caller promises. Before its wait, the kernel reads
        // nothing but the weights.
        unsafe {
            functions[usize::from(tokens > 1)].launch_overlapping(
                [(rows as usize).min(self.multiprocessors) as u32, 1, 1],
                THREADS,
                shared,
                stream,
                arguments![&arguments],
            )
        }
    }
}
