//! LLM.int8()'s product on Hopper's warpgroup products: integers, dequantised in registers, outliers on top.

use cudarc::driver::sys::{CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CUtensorMap};

use crate::{
    CUdeviceptr, CUstream, Element, Error, Function, Int8, Module, Result,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
    int8_quantize::Activations,
    tensor_map::Tiles,
};

// As in `cuda/int8_many.cu`.
const ROWS: usize = 128;
const DEPTH: usize = 128;
const THREADS: u32 = 384;
/// Outlier columns of a weight that the product gathers itself.
pub(crate) const FEW_OUTLIERS: usize = 64;
const OUTLIER_BYTES: usize = ROWS * FEW_OUTLIERS * 2;
/// Rows of activations a block of threads: the instances of the kernel.
const TOKENS: [usize; 5] = [16, 32, 64, 128, 256];
/// Shared memory that a block may have on Hopper.
const SHARED: usize = 227 * 1024;
const MOST_STAGES: usize = 10;
/// Blocks of threads that share the steps of a tile.
const MOST_SPLIT: usize = 4;
/// Steps of a tile of up to 32 tokens from which on a block has work of its own.
const FEWEST_STEPS: usize = 6;
/// Tokens up to which other blocks' sums leave room for enough stages.
const SPLIT_TOKENS: usize = 64;

/// `struct Int8` of `cuda/int8_many.cu`.
#[repr(C)]
struct Arguments {
    x: CUtensorMap,
    w: CUtensorMap,
    outlier_x: CUtensorMap,
    outlier_w: CUtensorMap,
    y: CUdeviceptr,
    x_scales: CUdeviceptr,
    w_scales: CUdeviceptr,
    outliers: CUdeviceptr,
    flags: CUdeviceptr,
    list: CUdeviceptr,
    codes: CUdeviceptr,
    tokens: u32,
    rows: u32,
    cols: u32,
    token_tiles: u32,
    row_tiles: u32,
    stages: u32,
    split: u32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Many {
    bf16: [Function; TOKENS.len()],
    f16: [Function; TOKENS.len()],
    multiprocessors: usize,
    _module: Module,
}

impl Many {
    /// Loads the kernels into the current context; `None` where the GPU is no Hopper.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Option<Self>> {
        if device_attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? != 9 {
            return Ok(None);
        }
        let module = Module::load(fatbin!("int8_many"))?;
        let kernels = |element: Element| -> Result<[Function; TOKENS.len()]> {
            let kernel = |tokens: usize| module.function(&format!("int8_many_{}_{tokens}", element.name()));
            let mut functions = [kernel(TOKENS[0])?; TOKENS.len()];
            for (function, tokens) in functions.iter_mut().zip(TOKENS) {
                *function = kernel(tokens)?;
                function.allow_shared_memory(SHARED as u32)?;
            }
            Ok(functions)
        };
        Ok(Some(Self {
            bf16: kernels(Element::BF16)?,
            f16: kernels(Element::F16)?,
            multiprocessors: multiprocessors()? as usize,
            _module: module,
        }))
    }

    /// Whether [`run`](Self::run) can multiply activations of this type with `weight`.
    pub fn fits(weight: &Int8, element: Element) -> bool {
        element != Element::F32 && weight.cols.is_multiple_of(16) && weight.cols > 0
    }

    /// `y = x · weightᵀ`: `x` the quantised activations of `tokens` rows, `y` `[tokens, rows]` of type `element`,
    /// aligned to 16 bytes.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` was filled for it, `tokens` and `element` earlier on the same
    /// stream; `y` is as long as said.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`fits`](Self::fits) says no; [`Error::Driver`].
    pub unsafe fn run(
        &self,
        weight: &Int8,
        x: &Activations,
        tokens: usize,
        y: CUdeviceptr,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        if !Self::fits(weight, element) {
            return Err(Error::Unsupported(format!("int8_many: {element:?}, {weight:?}")));
        }
        if tokens == 0 || weight.rows == 0 {
            return Ok(());
        }
        let functions = if element == Element::BF16 {
            &self.bf16
        } else {
            &self.f16
        };
        let instance = TOKENS
            .iter()
            .position(|most| tokens <= *most)
            .unwrap_or(TOKENS.len() - 1);
        let tile = TOKENS[instance];
        let stage = (tile + ROWS) * DEPTH;
        // Two barriers, a number, and one for each step.
        let steps = weight.cols.div_ceil(DEPTH);
        let taken = 2 * 8 + 4 + 2 * steps;
        let (token_tiles, row_tiles) = (tokens.div_ceil(tile), weight.rows.div_ceil(ROWS));
        let split = if tile <= SPLIT_TOKENS {
            (self.multiprocessors / (token_tiles * row_tiles))
                .min(steps / (FEWEST_STEPS * tile.div_ceil(32)))
                .clamp(1, MOST_SPLIT)
        } else {
            1
        };
        let fixed = OUTLIER_BYTES + (split - 1) * ROWS * tile * size_of::<i32>() + tile * 4 + taken;
        let stages = ((SHARED - fixed - 16 * MOST_STAGES) / stage).min(MOST_STAGES);
        let codes = |address, rows, box_rows| Tiles {
            address,
            element: 1,
            rows,
            cols: weight.cols,
            pitch: weight.cols,
            box_rows,
            box_cols: DEPTH,
            swizzled: true,
        };
        let outliers = |address, rows, box_rows| Tiles {
            address,
            element: 2,
            rows,
            cols: x.pitch,
            pitch: x.pitch,
            box_rows,
            box_cols: DEPTH / 2,
            swizzled: true,
        };
        let arguments = Arguments {
            x: codes(x.codes, tokens, tile).map()?,
            w: codes(weight.codes, weight.rows, ROWS).map()?,
            outlier_x: outliers(x.outliers, tokens, tile).map()?,
            outlier_w: outliers(x.outlier_weights, weight.rows, ROWS).map()?,
            y,
            x_scales: x.scales,
            w_scales: weight.scales,
            outliers: x.count(),
            flags: x.flags(),
            list: x.list,
            codes: weight.codes,
            tokens: tokens as u32,
            rows: weight.rows as u32,
            cols: weight.cols as u32,
            token_tiles: token_tiles as u32,
            row_tiles: row_tiles as u32,
            stages: stages as u32,
            split: split as u32,
        };
        let shared = fixed + stages * (stage + 16);
        // SAFETY: the one argument is the kernel's; memory is as the caller promises.
        unsafe {
            functions[instance].launch_overlapping_in_clusters(
                split as u32,
                [(token_tiles * row_tiles * split) as u32, 1, 1],
                THREADS,
                shared as u32,
                stream,
                arguments![&arguments],
            )
        }
    }
}
