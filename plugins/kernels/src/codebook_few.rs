//! Products of 1 to 16 rows of activations with a block codebook, bound by reading the weights once.

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Error, Function, Module, Result, Scales,
    codebook::ScalesArgument,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
};
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;

/// The most rows of activations.
pub const MOST_TOKENS: usize = 16;

// As in `cuda/codebook_few.cu`.
const WARPS: usize = 8;
const STEP: usize = 256;
const X_PITCH: usize = STEP * 2 + 16;
const TABLE_BYTES: usize = 256 * 32 * 4 + 256 * 4;
const MOST_STAGES: usize = 6;

/// One instance of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    /// 16-row tiles of the weight a block of threads takes at a time.
    tiles: usize,
    /// Elements of a row that share a scale.
    unit: usize,
    /// 8 rows of activations each.
    halves: usize,
}

const SHAPES: [Shape; 6] = [
    Shape::new(2, 64, 1),
    Shape::new(4, 64, 1),
    Shape::new(2, 64, 2),
    Shape::new(4, 64, 2),
    Shape::new(2, 32, 1),
    Shape::new(2, 32, 2),
];

impl Shape {
    const fn new(tiles: usize, unit: usize, halves: usize) -> Self {
        Self { tiles, unit, halves }
    }

    fn name(self, element: Element) -> String {
        format!(
            "codebook_few_{}_t{}_u{}_h{}",
            element.name(),
            self.tiles,
            self.unit,
            self.halves
        )
    }

    /// Bytes of dynamic shared memory that do not depend on the number of stages, and those of one stage.
    fn shared(self, tokens: usize) -> (usize, usize) {
        let rows = 16 * self.tiles;
        let fixed = WARPS * tokens * rows * 4;
        let stage = rows * STEP / 2 + rows * (STEP / self.unit) * 4 + tokens * X_PITCH;
        (fixed, WARPS * stage)
    }
}

/// `struct Few` of `cuda/codebook_few.cu`.
#[repr(C)]
struct Arguments {
    y: CUdeviceptr,
    x: CUdeviceptr,
    codes: CUdeviceptr,
    table: CUdeviceptr,
    scales: ScalesArgument,
    tokens: u32,
    rows: u32,
    cols: u32,
    scale_stride: u32,
    block_shift: u32,
    low_first: u32,
    vectors: u32,
    stages: u32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Few {
    bf16: [Function; SHAPES.len()],
    f16: [Function; SHAPES.len()],
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
        let module = Module::load(fatbin!("codebook_few"))?;
        let shared =
            device_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? - TABLE_BYTES as u32;
        let kernels = |element| -> Result<[Function; SHAPES.len()]> {
            let mut functions = Vec::with_capacity(SHAPES.len());
            for shape in SHAPES {
                let function = module.function(&shape.name(element))?;
                function.allow_shared_memory(shared)?;
                functions.push(function);
            }
            functions
                .try_into()
                .map_err(|_| Error::Unsupported("a kernel a shape".to_owned()))
        };
        Ok(Self {
            bf16: kernels(Element::BF16)?,
            f16: kernels(Element::F16)?,
            multiprocessors: multiprocessors()? as usize,
            shared: shared as usize,
            _module: module,
        })
    }

    /// Whether [`run`](Self::run) can multiply `tokens` rows of activations of this type with `weight` on this GPU.
    pub fn fits(&self, weight: &Codebook, tokens: usize, element: Element) -> bool {
        element != Element::F32 && self.shape(weight, tokens).is_some()
    }

    /// The kernel's instance, and its number of stages.
    fn shape(&self, weight: &Codebook, tokens: usize) -> Option<(Shape, usize)> {
        if tokens == 0 || tokens > MOST_TOKENS {
            return None;
        }
        let unit = weight.unit()?;
        let halves = tokens.div_ceil(8);
        let tiles_a_block = weight.rows.div_ceil(16).div_ceil(self.multiprocessors);
        let tiles = if tiles_a_block > 2 && unit == 64 { 4 } else { 2 };
        let preferred = Shape::new(tiles, unit, halves);
        let smaller = Shape::new(2, unit, halves);
        [preferred, smaller].into_iter().find_map(|shape| {
            let (fixed, stage) = shape.shared(tokens);
            let stages = (self.shared.checked_sub(fixed)? / stage).min(MOST_STAGES);
            (stages >= 2).then_some((shape, stages))
        })
    }

    /// `y = x · weightᵀ`: `x` `[tokens, cols]`, `y` `[tokens, rows]`, both of type `element`, aligned to 16 bytes.
    ///
    /// Codes are rounded to `element`, everything else is f32: the result is that of the dequantised weight but for the
    /// place of one rounding.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` and `y` are as long as said.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`fits`](Self::fits) says no; [`Error::Driver`].
    pub unsafe fn run(
        &self,
        weight: &Codebook,
        x: CUdeviceptr,
        tokens: usize,
        y: CUdeviceptr,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let unsupported = || {
            Error::Unsupported(format!(
                "codebook_few: {tokens} tokens of {element:?}, {weight:?}"
            ))
        };
        let (shape, stages) = self.shape(weight, tokens).ok_or_else(unsupported)?;
        let functions = match element {
            Element::BF16 => &self.bf16,
            Element::F16 => &self.f16,
            Element::F32 => return Err(unsupported()),
        };
        let index = SHAPES
            .iter()
            .position(|known| *known == shape)
            .ok_or_else(unsupported)?;
        let (fixed, stage) = shape.shared(tokens);
        let vectors = weight.block == shape.unit
            && weight.cols.is_multiple_of(STEP)
            && match weight.scales {
                Scales::Plain(_) => true,
                Scales::Coded { block, .. } => block.is_multiple_of(STEP / shape.unit),
            };
        let arguments = Arguments {
            y,
            x,
            codes: weight.codes,
            table: weight.table,
            scales: weight.scales.argument(),
            tokens: tokens as u32,
            rows: weight.rows as u32,
            cols: weight.cols as u32,
            scale_stride: weight.scale_stride() as u32,
            block_shift: weight.block.trailing_zeros(),
            low_first: u32::from(weight.low_first),
            vectors: u32::from(vectors),
            stages: stages as u32,
        };
        let blocks = weight.rows.div_ceil(16).min(self.multiprocessors);
        // SAFETY: the one argument is the kernel's; memory is as the caller promises.
        unsafe {
            functions[index].launch(
                [blocks as u32, 1, 1],
                32 * WARPS as u32,
                (fixed + stages * stage) as u32,
                stream,
                arguments![&arguments],
            )
        }
    }
}
