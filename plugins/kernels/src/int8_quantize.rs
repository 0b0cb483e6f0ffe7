//! LLM.int8()'s activations: quantised a row at a time, outlier columns found and set aside.

use cudarc::driver::sys;

use crate::{
    CUdeviceptr, CUstream, Element, Function, Int8, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
    error::check,
    int8_many::FEW_OUTLIERS,
};

/// Rows from which a launch of its own lists the outlier columns. To find out which block is the last costs each block as
/// much time as its row.
const MANY_TOKENS: usize = 2048;

/// Where a call keeps its quantised activations: addresses within memory that the caller lends.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// i8, `[tokens, cols]`.
    pub codes: CUdeviceptr,
    /// f32, `[tokens]`.
    pub scales: CUdeviceptr,
    /// Two u32: rows done, and the number of outlier columns; then a bit a column.
    pub columns: CUdeviceptr,
    /// u32, `[cols]`: the outlier columns, ascending.
    pub list: CUdeviceptr,
    /// `[tokens, pitch]`: the outlier columns of the activations, filled up with zeros to a multiple of 64.
    pub outliers: CUdeviceptr,
    /// `[rows, pitch]`: those of the weight, dequantised.
    pub outlier_weights: CUdeviceptr,
    /// `cols`, rounded up to a multiple of 64.
    pub pitch: usize,
    /// Up to so many outlier columns of the weight are left to the product.
    left_out: usize,
    /// Bytes of it all.
    pub bytes: usize,
}

impl Activations {
    /// Divides memory at `workspace`, aligned to 256 bytes, for `tokens` rows of activations of type `element`. With a
    /// `workspace` of 0 it tells how much that is.
    pub fn new(workspace: CUdeviceptr, weight: &Int8, tokens: usize, element: Element) -> Self {
        let mut bytes = 0;
        let mut take = |size: usize| {
            let at = workspace + bytes as u64;
            bytes += size.next_multiple_of(256);
            at
        };
        let pitch = weight.cols.next_multiple_of(64);
        let mut activations = Self {
            codes: take(tokens * weight.cols),
            scales: take(tokens * 4),
            columns: take(8 + weight.cols.div_ceil(32) * 4),
            list: take(weight.cols * 4),
            outliers: take(tokens * pitch * element.size()),
            outlier_weights: take(weight.rows * pitch * element.size()),
            pitch,
            left_out: 0,
            bytes: 0,
        };
        activations.bytes = bytes;
        activations
    }

    /// The same, for a product by [`int8_many`](crate::int8_many) alone, which gathers few columns of a weight itself.
    #[must_use]
    pub fn for_many(self) -> Self {
        Self {
            left_out: FEW_OUTLIERS,
            ..self
        }
    }

    /// The number of outlier columns, u32.
    pub fn count(&self) -> CUdeviceptr {
        self.columns + 4
    }

    /// A bit a column, set for an outlier: u32 words, `cols` bits rounded up.
    pub(crate) fn flags(&self) -> CUdeviceptr {
        self.columns + 8
    }
}

#[repr(C)]
struct QuantizeArguments {
    codes: CUdeviceptr,
    scales: CUdeviceptr,
    columns: CUdeviceptr,
    flags: CUdeviceptr,
    list: CUdeviceptr,
    threshold: CUdeviceptr,
    tokens: u32,
    cols: u32,
    list_later: u32,
}

#[repr(C)]
struct GatherArguments {
    codes: CUdeviceptr,
    columns: CUdeviceptr,
    list: CUdeviceptr,
    weight: CUdeviceptr,
    weight_scales: CUdeviceptr,
    tokens: u32,
    rows: u32,
    cols: u32,
    pitch: u32,
    left_out: u32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Quantize {
    rows: [Function; 3],
    gather: [Function; 3],
    list: Function,
    blocks: usize,
    _module: Module,
}

impl Quantize {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("int8_quantize"))?;
        let kernels = |kind: &str| -> Result<[Function; 3]> {
            let kernel = |element: Element| module.function(&format!("int8_{kind}_{}", element.name()));
            Ok([
                kernel(Element::F32)?,
                kernel(Element::F16)?,
                kernel(Element::BF16)?,
            ])
        };
        Ok(Self {
            rows: kernels("quantize")?,
            gather: kernels("gather")?,
            list: module.function("int8_list")?,
            blocks: multiprocessors()? as usize * 8,
            _module: module,
        })
    }

    /// Quantises `tokens` rows at `x` for a product with `weight` into `to`.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` is `[tokens, cols]` of `element`, aligned to 16 bytes; `to`
    /// was divided for the same sizes.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn run(
        &self,
        weight: &Int8,
        x: CUdeviceptr,
        tokens: usize,
        element: Element,
        to: &Activations,
        stream: CUstream,
    ) -> Result<()> {
        let list_later = tokens >= MANY_TOKENS;
        let quantize = QuantizeArguments {
            codes: to.codes,
            scales: to.scales,
            columns: to.columns,
            flags: to.flags(),
            list: to.list,
            threshold: weight.threshold,
            tokens: tokens as u32,
            cols: weight.cols as u32,
            list_later: u32::from(list_later),
        };
        let zeros = 2 + weight.cols.div_ceil(32);
        // SAFETY: types and order are those of the kernels; memory is as the caller promises.
        unsafe {
            check(sys::cuMemsetD32Async(to.columns, 0, zeros, stream), || {
                "cuMemsetD32Async".to_owned()
            })?;
            self.rows[element as usize].launch_overlapping(
                [tokens as u32, 1, 1],
                256,
                0,
                stream,
                arguments![&x, &quantize],
            )?;
            if list_later {
                self.list
                    .launch_overlapping([1, 1, 1], 256, 0, stream, arguments![&quantize])?;
            }
            self.gather(weight, x, tokens, element, to, stream)
        }
    }

    /// Makes what [`run`](Self::run) has quantised for one weight ready for another of as many columns and the same
    /// threshold: its outlier columns replace the other's.
    ///
    /// # Safety
    /// As for [`run`](Self::run); `to` has room for the outlier columns of `weight`, and was filled from the same `x`
    /// earlier on the stream.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn gather(
        &self,
        weight: &Int8,
        x: CUdeviceptr,
        tokens: usize,
        element: Element,
        to: &Activations,
        stream: CUstream,
    ) -> Result<()> {
        let gather = GatherArguments {
            codes: to.codes,
            columns: to.columns,
            list: to.list,
            weight: weight.codes,
            weight_scales: weight.scales,
            tokens: tokens as u32,
            rows: weight.rows as u32,
            cols: weight.cols as u32,
            pitch: to.pitch as u32,
            left_out: to.left_out as u32,
        };
        let blocks = (tokens + weight.rows).div_ceil(16).min(self.blocks);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            self.gather[element as usize].launch_overlapping(
                [blocks as u32, 1, 1],
                256,
                0,
                stream,
                arguments![&to.outliers, &to.outlier_weights, &x, &gather],
            )
        }
    }
}
