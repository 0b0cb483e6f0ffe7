//! Products of 1 to 16 rows of activations with a block codebook, bound by reading the weights once.

mod plan;

use cudarc::driver::sys::{
    CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
    },
    CUtensorMap,
};

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Error, Function, Module, Result, Scales,
    codebook::ScalesArgument,
    codebook_few_any::FewAny,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
    tensor_map::Tiles,
};
use plan::{BLOCK, Limits, Plan, SLICE, Sizes, TILE};

/// The most rows of activations.
pub const MOST_TOKENS: usize = 16;

/// The least bytes of a row that the copy engine brings, and what a row's bytes must be a multiple of.
const BOX_BYTES: usize = 16;

/// Weights that one launch can multiply with.
pub const MOST_WEIGHTS: usize = 3;

/// `struct Part` of `cuda/codebook_few.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    codes: CUtensorMap,
    scale_tiles: CUtensorMap,
    scales: ScalesArgument,
    y: CUdeviceptr,
    rows: u32,
    first_tile: u32,
}

/// `struct Few` of `cuda/codebook_few.cu`.
#[repr(C)]
struct Arguments {
    x: CUdeviceptr,
    table: CUdeviceptr,
    tokens: u32,
    cols: u32,
    tiles: u32,
    longer: u32,
    alone: u32,
    gated: u32,
    split: u32,
    warps: u32,
    sharing: u32,
    over_sharing: u32,
    round: u32,
    stages: u32,
    held: u32,
    over_tokens: u32,
    low_first: u32,
    boxed: u32,
    second_shift: u32,
    seconds: u32,
    over_seconds: u32,
    parts: [Part; MOST_WEIGHTS],
}

/// Weights that are multiplied with the same activations: of as many columns, with tables of the same values.
#[derive(Clone, Copy, Debug)]
pub enum Together<'a> {
    /// A result for each of up to three weights.
    Apart(&'a [(&'a Codebook, CUdeviceptr)]),
    /// One result: `silu(gate(x)) · up(x)`, both products rounded first.
    Gated {
        /// The weight whose product goes through silu.
        gate: &'a Codebook,
        /// The other one, of as many rows.
        up: &'a Codebook,
        /// Where the result goes.
        y: CUdeviceptr,
    },
}

impl<'a> Together<'a> {
    /// Each weight with its result.
    fn parts(self) -> Vec<(&'a Codebook, CUdeviceptr)> {
        match self {
            Self::Apart(parts) => parts.to_vec(),
            Self::Gated { gate, up, y } => vec![(gate, y), (up, y)],
        }
    }

    fn is_gated(self) -> bool {
        matches!(self, Self::Gated { .. })
    }
}

/// The kernels of one element type: for up to 8 tokens and for more; scales plain and coded.
type Functions = [[Function; 2]; 2];

/// The kernels for blocks of 64, for Hopper.
#[derive(Debug)]
struct Hopper {
    bf16: Functions,
    f16: Functions,
    limits: Limits,
    _module: Module,
}

impl Hopper {
    /// Loads the kernels into the current context; `None` where the GPU is no Hopper.
    fn load() -> Result<Option<Self>> {
        if device_attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? != 9 {
            return Ok(None);
        }
        let module = Module::load(fatbin!("codebook_few"))?;
        let most_shared = device_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let kernel = |element: Element, shape, stored| -> Result<Function> {
            let function = module.function(&format!("codebook_few_{}_{shape}_{stored}", element.name()))?;
            function.allow_shared_memory(most_shared)?;
            function.prefer_shared_memory()?;
            Ok(function)
        };
        let kernels = |element| -> Result<Functions> {
            Ok([
                [kernel(element, "8", "PLAIN")?, kernel(element, "8", "CODED")?],
                [kernel(element, "16", "PLAIN")?, kernel(element, "16", "CODED")?],
            ])
        };
        Ok(Some(Self {
            bf16: kernels(Element::BF16)?,
            f16: kernels(Element::F16)?,
            limits: Limits {
                multiprocessors: multiprocessors()? as usize,
                shared: most_shared as usize,
            },
            _module: module,
        }))
    }

    /// How to multiply `tokens` rows of activations with these weights; `None` where these kernels cannot.
    fn plan(&self, weights: &[&Codebook], gated: bool, tokens: usize) -> Option<Plan> {
        let first = *weights.first()?;
        let suits = |weight: &&Codebook| {
            let second = weight.scales.second_block();
            weight.unit().is_some()
                && weight.block == BLOCK
                && weight.cols.is_multiple_of(SLICE)
                && second.is_none_or(|block| block.is_power_of_two() && block.is_multiple_of(SLICE / BLOCK))
                && (weight.cols, weight.low_first, second)
                    == (first.cols, first.low_first, first.scales.second_block())
        };
        let suits = weights.len() <= MOST_WEIGHTS
            && (1..=MOST_TOKENS).contains(&tokens)
            && weights.iter().all(suits)
            && (!gated || weights.len() == 2 && weights[1].rows == first.rows);
        let sizes = Sizes {
            tiles: weights.iter().map(|weight| weight.rows.div_ceil(TILE)).sum(),
            cols: first.cols,
            tokens,
            second_block: first.scales.second_block(),
            gated,
        };
        suits.then(|| Plan::best(sizes, self.limits)).flatten()
    }

    /// As [`Few::run_together`], by a plan for these operands.
    unsafe fn run(
        plan: Plan,
        functions: &Functions,
        together: Together<'_>,
        (x, tokens): (CUdeviceptr, usize),
        stream: CUstream,
    ) -> Result<()> {
        let weights = together.parts();
        let first = weights[0].0;
        let boxed = are_boxed(first);
        let mut tiles = 0;
        let mut parts = Vec::with_capacity(MOST_WEIGHTS);
        for &(weight, y) in &weights {
            let codes = Tiles {
                address: weight.codes,
                element: 1,
                rows: weight.rows,
                cols: weight.cols / 2,
                pitch: weight.cols / 2,
                box_rows: TILE,
                box_cols: SLICE / 2,
                swizzled: true,
            };
            let (scales, scale_bytes) = match weight.scales {
                Scales::Plain(address) => (address, size_of::<f32>()),
                Scales::Coded { codes, .. } => (codes, 1),
            };
            let scale_tiles = Tiles {
                address: scales,
                element: 1,
                rows: weight.rows,
                cols: weight.cols / BLOCK * scale_bytes,
                pitch: weight.cols / BLOCK * scale_bytes,
                box_rows: TILE,
                box_cols: BOX_BYTES,
                swizzled: false,
            };
            parts.push(Part {
                codes: codes.map()?,
                scale_tiles: if boxed { scale_tiles.map()? } else { codes.map()? },
                scales: weight.scales.argument(),
                y,
                rows: weight.rows as u32,
                first_tile: tiles,
            });
            tiles += weight.rows.div_ceil(TILE) as u32;
        }
        let nowhere = Part {
            first_tile: u32::MAX,
            ..parts[0]
        };
        let mut part = parts.iter().copied();
        let shares = tiles as usize / if together.is_gated() { 2 } else { 1 };
        let arguments = Arguments {
            x,
            table: first.table,
            tokens: tokens as u32,
            cols: first.cols as u32,
            tiles: (shares / plan.units) as u32,
            longer: (shares % plan.units) as u32,
            alone: u32::from(weights.len() == 1),
            gated: u32::from(together.is_gated()),
            split: plan.split as u32,
            warps: plan.warps as u32,
            sharing: plan.sharing as u32,
            over_sharing: over(plan.sharing),
            round: plan.round as u32,
            stages: plan.stages as u32,
            held: plan.held as u32,
            over_tokens: over(tokens),
            low_first: u32::from(first.low_first),
            boxed: u32::from(boxed),
            second_shift: first.scales.second_block().map_or(0, usize::trailing_zeros),
            seconds: plan.seconds as u32,
            over_seconds: u32::MAX / plan.seconds.max(2) as u32 + 1,
            parts: [(); MOST_WEIGHTS].map(|()| part.next().unwrap_or(nowhere)),
        };
        let grid = [(plan.units * plan.split) as u32, 1, 1];
        let (threads, shared, cluster) = (32 * plan.warps as u32, plan.shared as u32, plan.split as u32);
        let function = functions[usize::from(tokens > 8)][usize::from(first.scales.second_block().is_some())];
        // SAFETY: the one argument is the kernel's; memory is as the caller promises. Before its wait, the kernel reads
        // nothing but the weights.
        unsafe {
            function.launch_overlapping_in_clusters(
                cluster,
                grid,
                threads,
                shared,
                stream,
                arguments![&arguments],
            )
        }
    }
}

/// 2^16 over `number`, rounded up: its product with a number up to 16 is, without its lower 16 bits, their whole quotient.
fn over(number: usize) -> u32 {
    65536_u32.div_ceil(number as u32)
}

/// Whether the copy engine can bring the weight's scales, and its tiles start with one of the second level where there is
/// such.
fn are_boxed(weight: &Codebook) -> bool {
    let blocks = weight.cols / BLOCK;
    match weight.scales.second_block() {
        None => (blocks * size_of::<f32>()).is_multiple_of(BOX_BYTES),
        Some(second_block) => {
            blocks.is_multiple_of(BOX_BYTES) && (TILE * blocks).is_multiple_of(second_block)
        }
    }
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Few {
    hopper: Option<Hopper>,
    any: FewAny,
}

impl Few {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        Ok(Self {
            hopper: Hopper::load()?,
            any: FewAny::load()?,
        })
    }

    /// Whether [`run`](Self::run) can multiply `tokens` rows of activations of this type with `weight` on this GPU.
    pub fn fits(&self, weight: &Codebook, tokens: usize, element: Element) -> bool {
        self.on_hopper(&[weight], false, tokens, element).is_some() || self.any.fits(weight, tokens, element)
    }

    /// Whether [`run_together`](Self::run_together) can multiply `tokens` rows of activations of this type with all these
    /// weights, `gated` or apart, on this GPU.
    pub fn fits_together(&self, weights: &[&Codebook], gated: bool, tokens: usize, element: Element) -> bool {
        self.on_hopper(weights, gated, tokens, element).is_some()
    }

    /// The kernels for Hopper and how they do it, where they can.
    fn on_hopper(
        &self,
        weights: &[&Codebook],
        gated: bool,
        tokens: usize,
        element: Element,
    ) -> Option<(&Functions, Plan)> {
        let hopper = self.hopper.as_ref()?;
        let functions = match element {
            Element::BF16 => &hopper.bf16,
            Element::F16 => &hopper.f16,
            Element::F32 => return None,
        };
        Some((functions, hopper.plan(weights, gated, tokens)?))
    }

    /// `y = x · weightᵀ`: `x` `[tokens, cols]`, `y` `[tokens, rows]`, both of type `element`, aligned to 16 bytes.
    ///
    /// Codes are rounded to `element`, everything else is f32: the result is that of the dequantised weight but for the
    /// place of one rounding.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` and `y` are as long as said. The kernel launched last on
    /// `stream` does not write the weight: it is read while that may still run.
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
        // SAFETY: as the caller promises.
        unsafe {
            match self.on_hopper(&[weight], false, tokens, element) {
                Some((functions, plan)) => {
                    let alone = [(weight, y)];
                    Hopper::run(plan, functions, Together::Apart(&alone), (x, tokens), stream)
                }
                None => self.any.run(weight, x, tokens, y, element, stream),
            }
        }
    }

    /// As [`run`](Self::run) for each weight, in one launch.
    ///
    /// # Safety
    /// As for [`run`](Self::run), and the weights' tables hold the same values, those of coded scales too.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`fits_together`](Self::fits_together) says no; [`Error::Driver`].
    pub unsafe fn run_together(
        &self,
        together: Together<'_>,
        (x, tokens): (CUdeviceptr, usize),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let weights: Vec<&Codebook> = together.parts().into_iter().map(|(weight, _)| weight).collect();
        let (functions, plan) = self
            .on_hopper(&weights, together.is_gated(), tokens, element)
            .ok_or_else(|| {
                Error::Unsupported(format!("codebook_few: {tokens} tokens, {weights:?} at once"))
            })?;
        // SAFETY: as the caller promises.
        unsafe { Hopper::run(plan, functions, together, (x, tokens), stream) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every number of warps and every column, by every divisor that a launch has.
    #[test]
    fn quotients_are_whole_ones() {
        for divisor in 1..=16 {
            for number in 0..=16 {
                assert_eq!(
                    (number * over(divisor)) >> 16,
                    number / divisor as u32,
                    "{number} / {divisor}"
                );
            }
        }
    }
}
