//! Products of 1 to 4 rows of activations with a dense weight, bound by reading the weight once.

use crate::{
    CUdeviceptr, CUstream, Element, Error, Function, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
};

/// The most rows of activations.
pub const MOST_TOKENS: usize = 4;

/// Warps a block of threads, as in `cuda/dense_few.cu`.
const WARPS: usize = 4;

/// Weights that one launch can multiply with.
pub const MOST_WEIGHTS: usize = 3;

/// Rows a multiprocessor below which each is worth two warps.
const FEW_ROWS: usize = 32;

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

/// `struct Part` of `cuda/dense_few.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    weight: CUdeviceptr,
    y: CUdeviceptr,
    rows: u32,
    first_row: u32,
}

/// `struct Few` of `cuda/dense_few.cu`.
#[repr(C)]
struct Arguments {
    parts: [Part; MOST_WEIGHTS],
    x: CUdeviceptr,
    tokens: u32,
    cols: u32,
    rows: u32,
    gated: u32,
    split: u32,
}

/// A weight of so many rows, and where its product goes.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    /// `[rows, cols]`.
    pub address: CUdeviceptr,
    /// Output features.
    pub rows: usize,
    /// `[tokens, rows]`.
    pub y: CUdeviceptr,
}

/// The kernels, loaded into one context: for one row of activations, and for up to four.
#[derive(Debug)]
pub struct Few {
    functions: [[Function; 2]; PAIRS.len()],
    multiprocessors: usize,
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
            multiprocessors: multiprocessors()? as usize,
            _module: module,
        })
    }

    /// Writes `x · weightᵀ`, summed in f32 and rounded once, for matrices of type `element` and a result of type `out`.
    ///
    /// Where the GPU can and the weight is `settled`, it is read while the kernel before this one still runs.
    ///
    /// # Safety
    /// The matrices have the sizes that `shape` tells and are aligned to 16 bytes. A weight that is `settled` is not
    /// written by the kernel launched last on `stream`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`Shape::fits`] says no, and for a result that is neither of the activations' type nor
    /// f32; [`Error::Driver`].
    pub unsafe fn run(
        &self,
        shape: Shape,
        (x, weight, element): (CUdeviceptr, CUdeviceptr, Element),
        (y, out): (CUdeviceptr, Element),
        settled: bool,
        stream: CUstream,
    ) -> Result<()> {
        let weight = Weight {
            address: weight,
            rows: shape.rows,
            y,
        };
        // SAFETY: as the caller promises.
        unsafe { self.launch(shape, &[weight], false, (x, element, out), settled, stream) }
    }

    /// As [`run`](Self::run) for each of up to three settled weights of `cols` columns, in one launch. If they are `gated`,
    /// they are two of as many rows, and where the first's product should go goes `silu(first) · second`, both products
    /// rounded first.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub unsafe fn run_together(
        &self,
        weights: &[Weight],
        gated: bool,
        (x, tokens, cols): (CUdeviceptr, usize, usize),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let rows = weights.iter().map(|weight| weight.rows).sum();
        let shape = Shape { tokens, rows, cols };
        if weights.is_empty()
            || weights.len() > MOST_WEIGHTS
            || gated && (weights.len() != 2 || weights[0].rows != weights[1].rows)
        {
            return Err(Error::Unsupported(format!("dense_few: {weights:?} at once")));
        }
        // SAFETY: as the caller promises.
        unsafe { self.launch(shape, weights, gated, (x, element, element), true, stream) }
    }

    unsafe fn launch(
        &self,
        shape: Shape,
        weights: &[Weight],
        gated: bool,
        (x, element, out): (CUdeviceptr, Element, Element),
        settled: bool,
        stream: CUstream,
    ) -> Result<()> {
        let function = self.function(shape, element, out)?;
        let mut part = weights.iter();
        let mut first_row = 0;
        let parts = [(); MOST_WEIGHTS].map(|()| {
            let part = part.next().map(|weight| Part {
                weight: weight.address,
                y: weight.y,
                rows: weight.rows as u32,
                first_row,
            });
            first_row += part.map_or(0, |part| part.rows);
            part.unwrap_or(Part {
                weight: 0,
                y: 0,
                rows: 0,
                first_row: u32::MAX,
            })
        });
        let split = if shape.rows < FEW_ROWS * self.multiprocessors {
            2
        } else {
            1
        };
        let arguments = Arguments {
            parts,
            x,
            tokens: shape.tokens as u32,
            cols: shape.cols as u32,
            rows: shape.rows as u32,
            gated: u32::from(gated),
            split: split as u32,
        };
        let grid = [shape.rows.div_ceil(WARPS / split) as u32, 1, 1];
        let (threads, arguments) = (32 * WARPS as u32, arguments![&arguments]);
        // SAFETY: the one argument is the kernel's; memory is as the caller promises. Before its wait, the kernel reads
        // nothing but the weights.
        unsafe {
            if settled {
                function.launch_overlapping(grid, threads, 0, stream, arguments)
            } else {
                function.launch(grid, threads, 0, stream, arguments)
            }
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
