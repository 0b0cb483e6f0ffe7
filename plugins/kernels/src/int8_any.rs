//! LLM.int8()'s product for any shape, type and GPU: exact integer sums, outlier columns in f32 on top.

use crate::{
    CUdeviceptr, CUstream, Element, Error, Function, Int8, Module, Result,
    driver::{arguments, fatbin},
    int8_quantize::Activations,
};

/// Tokens and rows of a block's results, as in `cuda/int8_any.cu`.
const TILE: usize = 64;
const THREADS: u32 = 256;

/// Types of the activations and of the result that have a kernel.
const PAIRS: [(Element, Element); 5] = [
    (Element::F32, Element::F32),
    (Element::F16, Element::F16),
    (Element::F16, Element::F32),
    (Element::BF16, Element::BF16),
    (Element::BF16, Element::F32),
];

/// `struct Int8Any` of `cuda/int8_any.cu`.
#[repr(C)]
struct Argument {
    x: CUdeviceptr,
    w: CUdeviceptr,
    x_scales: CUdeviceptr,
    w_scales: CUdeviceptr,
    outliers: CUdeviceptr,
    bias: CUdeviceptr,
    tokens: u32,
    rows: u32,
    cols: u32,
    pitch: u32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Any {
    functions: [Function; PAIRS.len()],
    _module: Module,
}

impl Any {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("int8_any"))?;
        let kernel =
            |(x, y): (Element, Element)| module.function(&format!("int8_any_{}_{}", x.name(), y.name()));
        let mut functions = [kernel(PAIRS[0])?; PAIRS.len()];
        for (function, pair) in functions.iter_mut().zip(PAIRS) {
            *function = kernel(pair)?;
        }
        Ok(Self {
            functions,
            _module: module,
        })
    }

    /// `y = x · weightᵀ + bias`: `x` the quantised activations of `tokens` rows of type `element`, `y` `[tokens, rows]`
    /// of type `out`. Rounded once without outliers; with outliers once before and once after their part is added.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` was filled for it, `tokens` and `element` earlier on the same
    /// stream; `bias` has `rows` f32 values; `y` is as long as said.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a result that is neither of the activations' type nor f32; [`Error::Driver`].
    #[expect(
        clippy::too_many_arguments,
        reason = "a product has three matrices, a size, two types and a stream"
    )]
    pub unsafe fn run(
        &self,
        weight: &Int8,
        x: &Activations,
        tokens: usize,
        element: Element,
        bias: Option<CUdeviceptr>,
        (y, out): (CUdeviceptr, Element),
        stream: CUstream,
    ) -> Result<()> {
        let function = PAIRS
            .iter()
            .position(|pair| *pair == (element, out))
            .map(|index| self.functions[index])
            .ok_or_else(|| Error::Unsupported(format!("int8 products of {element:?} as {out:?}")))?;
        let argument = Argument {
            x: x.codes,
            w: weight.codes,
            x_scales: x.scales,
            w_scales: weight.scales,
            outliers: x.count(),
            bias: bias.unwrap_or(0),
            tokens: tokens as u32,
            rows: weight.rows as u32,
            cols: weight.cols as u32,
            pitch: x.pitch as u32,
        };
        let grid = [weight.rows.div_ceil(TILE) as u32, tokens.div_ceil(TILE) as u32, 1];
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            function.launch(
                grid,
                THREADS,
                0,
                stream,
                arguments![&argument, &x.outliers, &x.outlier_weights, &y],
            )
        }
    }
}
