//! Products of 1 to 4 rows of activations with a dense weight, bound by reading the weight once.

use crate::{
    CUdeviceptr, CUstream, Element, Error, Function, Module, Result,
    driver::{arguments, fatbin},
};

/// The most rows of activations.
pub const MOST_TOKENS: usize = 4;

/// Rows of the weight a block of threads, a warp each, as in `cuda/dense_few.cu`.
const WARPS: usize = 4;

/// Elements that a lane reads at once: rows are whole numbers of them.
const PACK: usize = 8;

/// Types of the activations and of the result that have a kernel.
const PAIRS: [(Element, Element); 5] = [
    (Element::F32, Element::F32),
    (Element::F16, Element::F16),
    (Element::F16, Element::F32),
    (Element::BF16, Element::BF16),
    (Element::BF16, Element::F32),
];

/// The kernels, loaded into one context: for one row of activations, and for up to four.
#[derive(Debug)]
pub struct Few {
    functions: [[Function; 2]; PAIRS.len()],
    _module: Module,
}

/// A product's sizes: `x` is `[tokens, cols]`, the weight is `[rows, cols]`, the result is `[tokens, rows]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of activations.
    pub tokens: usize,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl Shape {
    /// Whether [`Few::run`] can multiply such matrices.
    pub fn fits(&self) -> bool {
        (1..=MOST_TOKENS).contains(&self.tokens) && self.rows > 0 && self.cols.is_multiple_of(PACK)
    }

    fn grid(&self) -> [u32; 3] {
        [self.rows.div_ceil(WARPS) as u32, 1, 1]
    }
}

impl Few {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("dense_few"))?;
        let kernels = |(x, y): (Element, Element)| -> Result<[Function; 2]> {
            let kernel =
                |tokens: usize| module.function(&format!("dense_few_{}_{}_{tokens}", x.name(), y.name()));
            Ok([kernel(1)?, kernel(MOST_TOKENS)?])
        };
        let mut functions = [kernels(PAIRS[0])?; PAIRS.len()];
        for (function, pair) in functions.iter_mut().zip(PAIRS) {
            *function = kernels(pair)?;
        }
        Ok(Self {
            functions,
            _module: module,
        })
    }

    /// Writes `x · weightᵀ`, summed in f32 and rounded once, for matrices of type `element` and a result of type `out`.
    ///
    /// # Safety
    /// The matrices have the sizes that `shape` tells and are aligned to 16 bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`Shape::fits`] says no, and for a result that is neither of the activations' type nor
    /// f32; [`Error::Driver`].
    pub unsafe fn run(
        &self,
        shape: Shape,
        (x, weight, element): (CUdeviceptr, CUdeviceptr, Element),
        (y, out): (CUdeviceptr, Element),
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            self.function(shape, element, out)?.launch(
                shape.grid(),
                32 * WARPS as u32,
                0,
                stream,
                arguments![
                    &x,
                    &weight,
                    &y,
                    &(shape.tokens as u32),
                    &(shape.rows as u32),
                    &(shape.cols as u32)
                ],
            )
        }
    }

    /// As [`run`](Self::run), but where the GPU can, the weight is read while the kernel before this one still runs.
    ///
    /// # Safety
    /// As for [`run`](Self::run); the kernel launched last on `stream` does not write the weight.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub unsafe fn run_overlapping(
        &self,
        shape: Shape,
        (x, weight, element): (CUdeviceptr, CUdeviceptr, Element),
        (y, out): (CUdeviceptr, Element),
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: types and order are those of the kernel; memory is as the caller promises. Before its wait, the kernel
        // reads nothing but the weight.
        unsafe {
            self.function(shape, element, out)?.launch_overlapping(
                shape.grid(),
                32 * WARPS as u32,
                0,
                stream,
                arguments![
                    &x,
                    &weight,
                    &y,
                    &(shape.tokens as u32),
                    &(shape.rows as u32),
                    &(shape.cols as u32)
                ],
            )
        }
    }

    fn function(&self, shape: Shape, element: Element, out: Element) -> Result<Function> {
        PAIRS
            .iter()
            .position(|pair| *pair == (element, out))
            .filter(|_| shape.fits())
            .map(|index| self.functions[index][usize::from(shape.tokens > 1)])
            .ok_or_else(|| Error::Unsupported(format!("dense_few: {shape:?} of {element:?} as {out:?}")))
    }
}
