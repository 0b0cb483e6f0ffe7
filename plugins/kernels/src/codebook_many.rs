//! Products of many rows of activations with a block codebook, on Hopper's warpgroup products.

use cudarc::driver::sys::{CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CUtensorMap};

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Error, Function, Module, Result,
    codebook::ScalesArgument,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
    tensor_map::Tiles,
};

// As in `cuda/codebook_many.cu`.
const ROWS: usize = 128;
const DEPTH: usize = 64;
const TABLE_BYTES: usize = 256 * 256 + 256 * 4;
const SCALE_BYTES: usize = ROWS * 8;
/// What lies behind the ring: barriers, and where warps put rows of results in order.
const BARRIER_BYTES: usize = 128;
const STAGING_BYTES: usize = 8 * 32 * 48;
/// Rows of activations a block of threads: the instances of the kernel.
const TOKENS: [usize; 4] = [32, 64, 128, 256];
/// Shared memory that a block may have on Hopper.
const SHARED: usize = 227 * 1024;
const MOST_STAGES: usize = 8;
const MOST_SPLITS: usize = 8;

/// Tokens below which these kernels are taken, and below which they are where the tiles keep the multiprocessors busy. On
/// an H200 they were faster than turning the matrix into floats for cuBLAS at 256 tokens (three matrices), at 1024 with
/// such tiles (three, and as fast with a fourth) and at 2048 (three); slower at 1024 with others, and from 4096 on with
/// most (docs/gpu.md). In between it is an estimate.
const SOME_TOKENS: usize = 768;
const MANY_TOKENS: usize = 3072;

/// `struct Many` of `cuda/codebook_many.cu`.
#[repr(C)]
struct Arguments {
    x: CUtensorMap,
    w: CUtensorMap,
    y: CUdeviceptr,
    partial: CUdeviceptr,
    table: CUdeviceptr,
    scales: ScalesArgument,
    tokens: u32,
    rows: u32,
    cols: u32,
    scale_stride: u32,
    block_shift: u32,
    second_shift: u32,
    low_first: u32,
    token_tiles: u32,
    row_tiles: u32,
    splits: u32,
    stages: u32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Many {
    bf16: [Function; TOKENS.len() + 1],
    f16: [Function; TOKENS.len() + 1],
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
        let module = Module::load(fatbin!("codebook_many"))?;
        let kernels = |element: Element| -> Result<[Function; TOKENS.len() + 1]> {
            let name = element.name();
            let add = module.function(&format!("codebook_many_add_{name}"))?;
            let mut functions = [add; TOKENS.len() + 1];
            for (function, tokens) in functions.iter_mut().zip(TOKENS) {
                *function = module.function(&format!("codebook_many_{name}_{tokens}"))?;
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
    pub fn fits(weight: &Codebook, element: Element) -> bool {
        element != Element::F32
            && weight.unit() == Some(DEPTH)
            && weight.scales.second_block().is_none_or(usize::is_power_of_two)
    }

    /// Whether [`run`](Self::run) is faster than turning the matrix into floats, and then a dense product.
    pub fn is_faster(&self, weight: &Codebook, tokens: usize) -> bool {
        let tiles = tokens.div_ceil(TOKENS[TOKENS.len() - 1]) * weight.rows.div_ceil(ROWS);
        let busy = 5 * tiles >= 4 * tiles.next_multiple_of(self.multiprocessors);
        tokens < SOME_TOKENS || (tokens < MANY_TOKENS && busy)
    }

    /// Which instance, and into how many parts K is split so that every multiprocessor has work.
    fn shape(&self, weight: &Codebook, tokens: usize) -> (usize, usize) {
        let instance = TOKENS
            .iter()
            .position(|most| tokens <= *most)
            .unwrap_or(TOKENS.len() - 1);
        let tiles = tokens.div_ceil(TOKENS[instance]) * weight.rows.div_ceil(ROWS);
        // A part has at least 8 steps.
        let most = (weight.cols / (8 * DEPTH)).clamp(1, MOST_SPLITS);
        (instance, (self.multiprocessors / tiles).clamp(1, most))
    }

    /// Bytes of memory that [`run`](Self::run) needs for sums of parts of K; 0 where it does not split.
    pub fn workspace(&self, weight: &Codebook, tokens: usize) -> usize {
        match self.shape(weight, tokens) {
            (_, 1) => 0,
            (_, splits) => splits * tokens * weight.rows * 4,
        }
    }

    /// `y = x · weightᵀ`: `x` `[tokens, cols]`, `y` `[tokens, rows]`, both of type `element`, aligned to 16 bytes.
    ///
    /// The products are those of the dequantised weight in `element`, whose table's values are rounded to it before they are
    /// scaled, and once more then; summed in f32.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` and `y` are as long as said; `workspace` is as long as
    /// [`workspace`](Self::workspace) says. The kernel launched last on `stream` does not write the weight: it is read
    /// while that may still run.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`fits`](Self::fits) says no; [`Error::Driver`].
    #[expect(
        clippy::too_many_arguments,
        reason = "a product has three matrices, a size, a type, memory and a stream"
    )]
    pub unsafe fn run(
        &self,
        weight: &Codebook,
        x: CUdeviceptr,
        tokens: usize,
        y: CUdeviceptr,
        element: Element,
        workspace: CUdeviceptr,
        stream: CUstream,
    ) -> Result<()> {
        if !Self::fits(weight, element) {
            return Err(Error::Unsupported(format!(
                "codebook_many: {element:?}, {weight:?}"
            )));
        }
        if tokens == 0 || weight.rows == 0 {
            return Ok(());
        }
        let functions = if element == Element::BF16 {
            &self.bf16
        } else {
            &self.f16
        };
        let (instance, splits) = self.shape(weight, tokens);
        let tile = TOKENS[instance];
        let stage = tile * DEPTH * 2 + ROWS * DEPTH / 2 + SCALE_BYTES;
        let stages = ((SHARED - TABLE_BYTES - BARRIER_BYTES - STAGING_BYTES) / stage).min(MOST_STAGES);
        let x_tiles = Tiles {
            address: x,
            element: 2,
            rows: tokens,
            cols: weight.cols,
            pitch: weight.cols,
            box_rows: tile,
            box_cols: DEPTH,
            swizzled: true,
        };
        let w_tiles = Tiles {
            address: weight.codes,
            element: 1,
            rows: weight.rows,
            cols: weight.cols / 2,
            pitch: weight.cols / 2,
            box_rows: ROWS,
            box_cols: DEPTH / 2,
            swizzled: false,
        };
        let (token_tiles, row_tiles) = (tokens.div_ceil(tile), weight.rows.div_ceil(ROWS));
        let arguments = Arguments {
            x: x_tiles.map()?,
            w: w_tiles.map()?,
            y,
            partial: workspace,
            table: weight.table,
            scales: weight.scales.argument(),
            tokens: tokens as u32,
            rows: weight.rows as u32,
            cols: weight.cols as u32,
            scale_stride: weight.scale_stride() as u32,
            block_shift: weight.block.trailing_zeros(),
            second_shift: weight.scales.second_block().map_or(0, usize::trailing_zeros),
            low_first: u32::from(weight.low_first),
            token_tiles: token_tiles as u32,
            row_tiles: row_tiles as u32,
            splits: splits as u32,
            stages: stages as u32,
        };
        let shared = stages * stage + TABLE_BYTES + BARRIER_BYTES + STAGING_BYTES;
        // One item a block, or with the largest tiles one block a multiprocessor.
        let items = token_tiles * row_tiles * splits;
        let largest = tile == TOKENS[TOKENS.len() - 1];
        let blocks = if largest {
            items.min(self.multiprocessors)
        } else {
            items
        };
        // SAFETY: the one argument is the kernel's; memory is as the caller promises. Before its wait, the kernel reads
        // nothing but the weight.
        unsafe {
            functions[instance].launch_overlapping(
                [blocks as u32, 1, 1],
                if largest { 384 } else { 640 },
                shared as u32,
                stream,
                arguments![&arguments],
            )
        }?;
        if splits == 1 {
            return Ok(());
        }
        let count = tokens * weight.rows;
        let blocks = count.div_ceil(256).min(self.multiprocessors * 8);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            functions[TOKENS.len()].launch(
                [blocks as u32, 1, 1],
                256,
                0,
                stream,
                arguments![&y, &workspace, &(count as u64), &(splits as u32)],
            )
        }
    }
}
