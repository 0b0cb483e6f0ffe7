//! The products of `codebook_few` for layouts and GPUs that its own kernels do not know.

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Error, Function, Module, Result, Scales,
    codebook::ScalesArgument,
    codebook_few::MOST_TOKENS,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
};
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;

// As in `cuda/codebook_few_any.cu`.
const WARPS: usize = 8;
/// Shared memory that is not dynamic.
const STATIC_BYTES: usize = 256 * 4;
const MOST_STAGES: usize = 6;

/// How a row's scales of one step are fetched.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fetch {
    /// As one vector of f32.
    Plain,
    /// As one vector of codes, under one scale of the second level.
    Coded,
    /// One by one, wherever they lie.
    Any,
}

/// One instance of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    /// Columns a warp takes in one step.
    step: usize,
    /// 16-row tiles of the weight a block of threads takes at a time.
    tiles: usize,
    /// Elements of a row that share a scale.
    unit: usize,
    /// 8 rows of activations each.
    halves: usize,
    fetch: Fetch,
}

const SHAPES: [Shape; 10] = [
    Shape::new(256, 2, 64, 1, Fetch::Plain),
    Shape::new(256, 2, 64, 1, Fetch::Coded),
    Shape::new(128, 4, 64, 2, Fetch::Plain),
    Shape::new(128, 4, 64, 2, Fetch::Coded),
    Shape::new(128, 2, 64, 2, Fetch::Plain),
    Shape::new(128, 2, 64, 2, Fetch::Coded),
    Shape::new(128, 2, 64, 1, Fetch::Any),
    Shape::new(128, 2, 64, 2, Fetch::Any),
    Shape::new(128, 2, 32, 1, Fetch::Any),
    Shape::new(128, 2, 32, 2, Fetch::Any),
];

impl Shape {
    const fn new(step: usize, tiles: usize, unit: usize, halves: usize, fetch: Fetch) -> Self {
        Self {
            step,
            tiles,
            unit,
            halves,
            fetch,
        }
    }

    fn name(self, element: Element) -> String {
        let fetch = match self.fetch {
            Fetch::Plain => "PLAIN",
            Fetch::Coded => "CODED",
            Fetch::Any => "ANY",
        };
        format!(
            "codebook_few_{}_s{}_t{}_u{}_h{}_{fetch}",
            element.name(),
            self.step,
            self.tiles,
            self.unit,
            self.halves
        )
    }

    /// Whether this instance can multiply `tokens` rows of activations with `weight`.
    fn suits(self, weight: &Codebook, tokens: usize) -> bool {
        let aligned = weight.block == self.unit && weight.cols.is_multiple_of(self.step);
        weight.unit() == Some(self.unit)
            && tokens.div_ceil(8) == self.halves
            && match (self.fetch, weight.scales) {
                (Fetch::Any, _) => true,
                (Fetch::Plain, Scales::Plain(_)) => aligned,
                (Fetch::Coded, Scales::Coded { block, .. }) => {
                    aligned && block.is_power_of_two() && block.is_multiple_of(self.step / self.unit)
                }
                _ => false,
            }
    }

    /// Bytes of dynamic shared memory that do not depend on the number of stages, and those of one stage.
    fn shared(self, tokens: usize) -> (usize, usize) {
        let rows = 16 * self.tiles;
        let table = 256 * if self.halves == 1 { 256 } else { 128 };
        let fixed = table + WARPS * tokens * rows * 4;
        let stage = rows * self.step / 2 + rows * (self.step / self.unit) * 4 + tokens * (self.step * 2 + 16);
        (fixed, WARPS * stage)
    }
}

/// `struct Few` of `cuda/codebook_few_any.cu`.
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
    second_shift: u32,
    low_first: u32,
    stages: u32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub(crate) struct FewAny {
    bf16: [Function; SHAPES.len()],
    f16: [Function; SHAPES.len()],
    multiprocessors: usize,
    shared: usize,
    _module: Module,
}

impl FewAny {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub(crate) fn load() -> Result<Self> {
        let module = Module::load(fatbin!("codebook_few_any"))?;
        let shared =
            device_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? - STATIC_BYTES as u32;
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
    pub(crate) fn fits(&self, weight: &Codebook, tokens: usize, element: Element) -> bool {
        element != Element::F32 && self.shape(weight, tokens).is_some()
    }

    /// The kernel's instance, by its place in [`SHAPES`], and its number of stages: the first that suits.
    fn shape(&self, weight: &Codebook, tokens: usize) -> Option<(usize, usize)> {
        if tokens == 0 || tokens > MOST_TOKENS {
            return None;
        }
        let tiles = weight.rows.div_ceil(16).div_ceil(self.multiprocessors);
        SHAPES.iter().enumerate().find_map(|(index, shape)| {
            if !shape.suits(weight, tokens) || shape.tiles > 2 && tiles <= 2 {
                return None;
            }
            let (fixed, stage) = shape.shared(tokens);
            let stages = (self.shared.checked_sub(fixed)? / stage).min(MOST_STAGES);
            (stages >= 2).then_some((index, stages))
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
    pub(crate) unsafe fn run(
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
                "codebook_few_any: {tokens} tokens of {element:?}, {weight:?}"
            ))
        };
        let (index, stages) = self.shape(weight, tokens).ok_or_else(unsupported)?;
        let functions = match element {
            Element::BF16 => &self.bf16,
            Element::F16 => &self.f16,
            Element::F32 => return Err(unsupported()),
        };
        let shape = SHAPES[index];
        let (fixed, stage) = shape.shared(tokens);
        let second_shift = match weight.scales {
            Scales::Plain(_) => 0,
            Scales::Coded { block, .. } => block.trailing_zeros(),
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
            second_shift,
            low_first: u32::from(weight.low_first),
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
