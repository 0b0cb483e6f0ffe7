//! Attention of one new position a sequence, which joins the cache: keys split over blocks.

use crate::{
    CUdeviceptr, CUstream, Element, Function, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
    error::Error,
};

const THREADS: u32 = 128;
/// The widest head.
const MAX_WIDTH: usize = 256;
/// Columns that a warp holds in one pair a lane.
const COLUMNS: usize = 64;
/// Positions that are worth a block of their own.
const SHARE: usize = 32;
/// A share's results cost a pass over all shares' when they are merged.
const MOST_SHARES: usize = 16;
/// Blocks that run at once on a multiprocessor, at least.
const BLOCKS: usize = 5;

/// One step of one layer: its device pointers and its shape.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Queries, `[batch, heads · head_dim]`.
    pub q: CUdeviceptr,
    /// The new position's keys, `[batch, kv_heads · head_dim]`.
    pub new_k: CUdeviceptr,
    /// Its values.
    pub new_v: CUdeviceptr,
    /// The cache's keys: sequence `b` starts at element `b · capacity · kv_heads · head_dim`.
    pub k: CUdeviceptr,
    /// The cache's values, stored as its keys are.
    pub v: CUdeviceptr,
    /// `[batch, mask_stride]` bytes, 1 for a token; none when every position is one.
    pub mask: Option<CUdeviceptr>,
    /// Bytes between two sequences' masks.
    pub mask_stride: usize,
    /// An i32: how many positions stand in the cache, which is where the new one goes. Below `capacity`.
    pub position: CUdeviceptr,
    /// Cosines and sines, `[head_dim / 2]` f32 values each, by which queries and new keys are turned first, as
    /// [`Rope`](crate::rope::Rope) does; none when they have been.
    pub angles: Option<(CUdeviceptr, CUdeviceptr)>,
    /// `[batch, heads · head_dim]`.
    pub out: CUdeviceptr,
    /// Scratch of [`AttentionStep::workspace`] bytes; its first `batch · heads` u32 values are 0, and are so again
    /// afterwards.
    pub workspace: CUdeviceptr,
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// With `Some(w)`, position `p` sees no position up to `p - w`.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
}

/// `struct Step` of `cuda/attention_step.cu`.
#[repr(C)]
struct Argument {
    q: CUdeviceptr,
    new_k: CUdeviceptr,
    new_v: CUdeviceptr,
    k: CUdeviceptr,
    v: CUdeviceptr,
    mask: CUdeviceptr,
    position: CUdeviceptr,
    cos: CUdeviceptr,
    sin: CUdeviceptr,
    out: CUdeviceptr,
    found: CUdeviceptr,
    finished: CUdeviceptr,
    kv_stride: i64,
    mask_stride: i64,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    window: i32,
    scale: f32,
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct AttentionStep {
    /// By element, then by pairs of columns a lane.
    functions: [[Function; MAX_WIDTH / COLUMNS]; 3],
    multiprocessors: usize,
    _module: Module,
}

impl AttentionStep {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("attention_step"))?;
        let kernel = |element: Element, pairs: usize| {
            module.function(&format!("attention_step_{}_{pairs}", element.name()))
        };
        let of = |element: Element| -> Result<_> {
            Ok([
                kernel(element, 1)?,
                kernel(element, 2)?,
                kernel(element, 3)?,
                kernel(element, 4)?,
            ])
        };
        Ok(Self {
            functions: [of(Element::F32)?, of(Element::F16)?, of(Element::BF16)?],
            multiprocessors: multiprocessors()? as usize,
            _module: module,
        })
    }

    /// Blocks a head. Depends on the room in the cache, not on what it holds, so that a recorded launch serves all steps.
    fn shares(&self, batch: usize, heads: usize, capacity: usize) -> usize {
        let at_once = (self.multiprocessors * BLOCKS / (batch * heads)).max(1);
        capacity.div_ceil(SHARE).min(at_once).min(MOST_SHARES)
    }

    /// Bytes of scratch for `batch` sequences, heads of these counts and width, and a cache of this capacity.
    pub fn workspace(&self, batch: usize, heads: usize, head_dim: usize, capacity: usize) -> usize {
        let rows = batch * heads;
        finished_bytes(rows) + rows * self.shares(batch, heads, capacity) * (2 + head_dim) * size_of::<f32>()
    }

    /// Bytes at the start of the scratch that must be zeros before its first use.
    pub fn zeros(batch: usize, heads: usize) -> usize {
        finished_bytes(batch * heads)
    }

    /// Writes the new position's keys and values into the cache, and `softmax(scale · q kᵀ) v` for each head over all
    /// positions up to it; a query that sees no key gets zeros.
    ///
    /// # Safety
    /// The pointers name memory of the sizes told, aligned to 16 bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for heads wider than 256 or of odd width; [`Error::Driver`].
    pub unsafe fn run(&self, step: &Step, element: Element, stream: CUstream) -> Result<()> {
        if step.head_dim > MAX_WIDTH || step.head_dim % 2 == 1 {
            return Err(Error::Unsupported(format!(
                "heads {} wide: attention of a step knows even widths up to {MAX_WIDTH}",
                step.head_dim
            )));
        }
        let (cos, sin) = step.angles.unwrap_or((0, 0));
        let argument = Argument {
            q: step.q,
            new_k: step.new_k,
            new_v: step.new_v,
            k: step.k,
            v: step.v,
            mask: step.mask.unwrap_or(0),
            position: step.position,
            cos,
            sin,
            out: step.out,
            found: step.workspace + finished_bytes(step.batch * step.heads) as u64,
            finished: step.workspace,
            kv_stride: (step.capacity * step.kv_heads * step.head_dim) as i64,
            mask_stride: step.mask_stride as i64,
            heads: step.heads as i32,
            kv_heads: step.kv_heads as i32,
            head_dim: step.head_dim as i32,
            window: step
                .window
                .map_or(0, |window| window.min(i32::MAX as usize) as i32),
            scale: step.scale,
        };
        let function = self.functions[element as usize][step.head_dim.div_ceil(COLUMNS) - 1];
        let grid = [
            self.shares(step.batch, step.heads, step.capacity) as u32,
            step.heads as u32,
            step.batch as u32,
        ];
        // SAFETY: the argument has the layout of the kernel's; memory is as the caller promises.
        unsafe { function.launch_overlapping(grid, THREADS, 0, stream, arguments![&argument]) }
    }
}

/// A counter for each row, then whatever follows aligned again.
fn finished_bytes(rows: usize) -> usize {
    (rows * size_of::<u32>()).next_multiple_of(256)
}
