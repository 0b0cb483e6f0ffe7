//! Products of 1 to 16 rows of activations with a block codebook, bound by reading the weights once.

mod plan;

use cudarc::driver::sys::{
    CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
    },
    CUtensorMap,
};

use crate::{
    CUdeviceptr, CUstream, Codebook, Element, Function, Module, Result, Scales,
    codebook::ScalesArgument,
    codebook_few_any::FewAny,
    driver::{arguments, device_attribute, fatbin, multiprocessors},
    tensor_map::Tiles,
};
use plan::{BLOCK, Limits, Plan, STEP, Sizes};

/// The most rows of activations.
pub const MOST_TOKENS: usize = 16;

/// What the driver keeps of a block's shared memory.
const RESERVED_BYTES: usize = 1024;

/// `struct Few` of `cuda/codebook_few.cu`.
#[repr(C)]
struct Arguments {
    codes: CUtensorMap,
    y: CUdeviceptr,
    x: CUdeviceptr,
    table: CUdeviceptr,
    scales: ScalesArgument,
    tokens: u32,
    rows: u32,
    cols: u32,
    second_shift: u32,
    low_first: u32,
    pass_steps: u32,
    stages: u32,
    x_apart: u32,
}

/// The kernels of one element type: for up to 8 tokens and for more, scales plain and coded.
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
        let all_shared = device_attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?;
        let kernel = |element: Element, halves, stored| -> Result<Function> {
            let function = module.function(&format!("codebook_few_{}_h{halves}_{stored}", element.name()))?;
            function.allow_shared_memory(most_shared)?;
            function.prefer_shared_memory()?;
            Ok(function)
        };
        let kernels = |element| -> Result<Functions> {
            Ok([
                [kernel(element, 1, "PLAIN")?, kernel(element, 1, "CODED")?],
                [kernel(element, 2, "PLAIN")?, kernel(element, 2, "CODED")?],
            ])
        };
        Ok(Some(Self {
            bf16: kernels(Element::BF16)?,
            f16: kernels(Element::F16)?,
            limits: Limits {
                multiprocessors: multiprocessors()? as usize,
                shared: most_shared as usize,
                half: all_shared as usize / 2 - RESERVED_BYTES,
            },
            _module: module,
        }))
    }

    /// How to multiply `tokens` rows of activations with `weight`; `None` where these kernels cannot.
    fn plan(&self, weight: &Codebook, tokens: usize) -> Option<Plan> {
        let second_suits = match weight.scales {
            Scales::Plain(_) => true,
            Scales::Coded { block, .. } => block.is_power_of_two() && block.is_multiple_of(STEP / BLOCK),
        };
        let suits = weight.unit().is_some()
            && weight.block == BLOCK
            && weight.cols.is_multiple_of(STEP)
            && (1..=MOST_TOKENS).contains(&tokens)
            && second_suits;
        let sizes = Sizes {
            rows: weight.rows,
            cols: weight.cols,
            tokens,
            coded: matches!(weight.scales, Scales::Coded { .. }),
        };
        suits.then(|| Plan::best(sizes, self.limits)).flatten()
    }

    /// As [`Few::run`], by a plan for these operands.
    unsafe fn run(
        &self,
        plan: Plan,
        functions: &Functions,
        weight: &Codebook,
        (x, tokens, y): (CUdeviceptr, usize, CUdeviceptr),
        stream: CUstream,
    ) -> Result<()> {
        let (coded, second_shift) = match weight.scales {
            Scales::Plain(_) => (0, 0),
            Scales::Coded { block, .. } => (1, block.trailing_zeros()),
        };
        let codes = Tiles {
            address: weight.codes,
            element: 1,
            rows: weight.rows,
            cols: weight.cols / 2,
            pitch: weight.cols / 2,
            box_rows: 16,
            box_cols: STEP / 2,
            swizzled: true,
        };
        let arguments = Arguments {
            codes: codes.map()?,
            y,
            x,
            table: weight.table,
            scales: weight.scales.argument(),
            tokens: tokens as u32,
            rows: weight.rows as u32,
            cols: weight.cols as u32,
            second_shift,
            low_first: u32::from(weight.low_first),
            pass_steps: plan.pass_steps as u32,
            stages: plan.stages as u32,
            x_apart: u32::from(plan.x_apart),
        };
        let blocks = weight.rows.div_ceil(16).min(self.limits.multiprocessors);
        let (grid, threads) = ([blocks as u32, 1, 1], 32 * plan.warps as u32);
        let function = functions[usize::from(tokens > 8)][coded];
        // SAFETY: the one argument is the kernel's; memory is as the caller promises. Before its wait, the kernel reads
        // nothing but the weight.
        unsafe {
            function.launch_overlapping(grid, threads, plan.shared as u32, stream, arguments![&arguments])
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
        self.on_hopper(weight, tokens, element).is_some() || self.any.fits(weight, tokens, element)
    }

    /// The kernels for Hopper and how they do it, where they can.
    fn on_hopper(
        &self,
        weight: &Codebook,
        tokens: usize,
        element: Element,
    ) -> Option<(&Hopper, &Functions, Plan)> {
        let hopper = self.hopper.as_ref()?;
        let functions = match element {
            Element::BF16 => &hopper.bf16,
            Element::F16 => &hopper.f16,
            Element::F32 => return None,
        };
        Some((hopper, functions, hopper.plan(weight, tokens)?))
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
    /// [`Error::Unsupported`](crate::Error::Unsupported) where [`fits`](Self::fits) says no; [`Error::Driver`](crate::Error::Driver).
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
            match self.on_hopper(weight, tokens, element) {
                Some((hopper, functions, plan)) => {
                    hopper.run(plan, functions, weight, (x, tokens, y), stream)
                }
                None => self.any.run(weight, x, tokens, y, element, stream),
            }
        }
    }
}
