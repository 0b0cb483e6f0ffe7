//! Attention without a length × length matrix: on tensor cores, or exact in f32.

use crate::{
    CUdeviceptr, CUstream, Element, Function, Module, Result,
    driver::{arguments, fatbin},
    error::Error,
};

/// Widths of a head that have a tensor-core kernel: its queries a block and its keys a step.
const TILED: [(usize, usize, usize); 5] = [
    (64, 128, 64),
    (96, 128, 64),
    (128, 128, 64),
    (192, 64, 64),
    (256, 64, 64),
];
/// Elements that pad a row in shared memory, as in `cuda/attention.cu`.
const PADDING: usize = 8;
const THREADS: u32 = 128;

/// The widest head of the exact kernel, and its tile, as in `cuda/attention_exact.cu`.
const EXACT_MAX_WIDTH: usize = 256;
const EXACT_TILE: usize = 32;
const EXACT_THREADS: u32 = 256;

/// One attention: its device pointers and its shape.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Queries, `[batch · length, heads · head_dim]`.
    pub q: CUdeviceptr,
    /// Keys: sequence `b` starts at element `b · kv_stride`, its `past + length` positions follow each other.
    pub k: CUdeviceptr,
    /// Values, stored as the keys are.
    pub v: CUdeviceptr,
    /// `[batch, past + length]` bytes, 1 for a token; none when every position is one.
    pub mask: Option<CUdeviceptr>,
    /// `[batch · length, heads · head_dim]`.
    pub out: CUdeviceptr,
    /// Elements between two sequences' keys.
    pub kv_stride: usize,
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Queries a sequence; query `i` stands at position `past + i`.
    pub length: usize,
    /// Positions before the first query.
    pub past: usize,
    /// With `Some(w)`, position `p` sees no position up to `p - w`.
    pub window: Option<usize>,
    /// Whether a position sees only itself and those before it.
    pub causal: bool,
    /// Factor of the scores.
    pub scale: f32,
}

/// `struct Attention` of `cuda/attention.cuh`.
#[repr(C)]
struct Argument {
    q: CUdeviceptr,
    k: CUdeviceptr,
    v: CUdeviceptr,
    mask: CUdeviceptr,
    out: CUdeviceptr,
    kv_stride: i64,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    length: i32,
    past: i32,
    window: i32,
    causal: i32,
    scale: f32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Attention {
    /// By width, for f16 and bf16.
    tiled: Vec<(usize, usize, u32, [Function; 2])>,
    exact: [Function; 3],
    _modules: [Module; 2],
}

/// Whether a head of this width runs on tensor cores.
pub fn is_tiled(head_dim: usize, element: Element) -> bool {
    element != Element::F32 && TILED.iter().any(|(width, ..)| *width == head_dim)
}

fn exact_shared_memory(head_dim: usize) -> u32 {
    let padded = head_dim.next_multiple_of(4);
    (4 * EXACT_TILE * (padded + (padded + 4) + padded)) as u32
}

impl Attention {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("attention"))?;
        let exact_module = Module::load(fatbin!("attention_exact"))?;
        let tiled = TILED
            .into_iter()
            .map(|(width, queries, keys)| {
                let shared = (2 * (queries + 2 * keys) * (width + PADDING)) as u32;
                let kernel = |element: Element| -> Result<Function> {
                    let function = module.function(&format!("attention_{}_{width}", element.name()))?;
                    function.allow_shared_memory(shared)?;
                    Ok(function)
                };
                Ok((
                    width,
                    queries,
                    shared,
                    [kernel(Element::F16)?, kernel(Element::BF16)?],
                ))
            })
            .collect::<Result<_>>()?;
        let exact = |element: Element| -> Result<Function> {
            let function = exact_module.function(&format!("attention_exact_{}", element.name()))?;
            function.allow_shared_memory(exact_shared_memory(EXACT_MAX_WIDTH))?;
            Ok(function)
        };
        Ok(Self {
            tiled,
            exact: [exact(Element::F32)?, exact(Element::F16)?, exact(Element::BF16)?],
            _modules: [module, exact_module],
        })
    }

    /// Writes `softmax(scale · q kᵀ) v` for each head; a query that sees no key gets zeros.
    ///
    /// # Safety
    /// The pointers name memory of the sizes that the problem tells, aligned to 16 bytes, and so is each row of a head
    /// where [`is_tiled`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for heads wider than 256; [`Error::Driver`].
    pub unsafe fn run(&self, problem: &Problem, element: Element, stream: CUstream) -> Result<()> {
        let argument = Argument {
            q: problem.q,
            k: problem.k,
            v: problem.v,
            mask: problem.mask.unwrap_or(0),
            out: problem.out,
            kv_stride: problem.kv_stride as i64,
            heads: problem.heads as i32,
            kv_heads: problem.kv_heads as i32,
            head_dim: problem.head_dim as i32,
            length: problem.length as i32,
            past: problem.past as i32,
            window: problem
                .window
                .map_or(0, |window| window.min(i32::MAX as usize) as i32),
            causal: i32::from(problem.causal),
            scale: problem.scale,
        };
        let (function, queries, threads, shared) = if is_tiled(problem.head_dim, element) {
            let (_, queries, shared, functions) = self
                .tiled
                .iter()
                .find(|(width, ..)| *width == problem.head_dim)
                .ok_or_else(|| Error::Unsupported(format!("heads {} wide", problem.head_dim)))?;
            (
                functions[usize::from(element == Element::BF16)],
                *queries,
                THREADS,
                *shared,
            )
        } else if problem.head_dim <= EXACT_MAX_WIDTH {
            let shared = exact_shared_memory(problem.head_dim);
            (self.exact[element as usize], EXACT_TILE, EXACT_THREADS, shared)
        } else {
            return Err(Error::Unsupported(format!(
                "heads {} wide: attention knows up to {EXACT_MAX_WIDTH}",
                problem.head_dim
            )));
        };
        let grid = [
            problem.length.div_ceil(queries) as u32,
            problem.heads as u32,
            problem.batch as u32,
        ];
        // SAFETY: the argument has the layout of the kernel's; memory is as the caller promises.
        unsafe { function.launch(grid, threads, shared, stream, arguments![&argument]) }
    }
}
