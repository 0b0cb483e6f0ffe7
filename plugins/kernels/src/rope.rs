//! Rotary position embeddings in place.

use crate::{
    CUdeviceptr, CUstream, Element, Module, Result,
    driver::{arguments, fatbin},
    packs::{PackedKernel, packed_kernel},
};

const THREADS: usize = 256;

/// The kernel, loaded into one context.
#[derive(Debug)]
pub struct Rope {
    kernel: PackedKernel,
    _module: Module,
}

/// The heads that one launch turns.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Queries, `[rows, q_heads · head_dim]`.
    pub q: CUdeviceptr,
    /// Query heads; may be 0.
    pub q_heads: usize,
    /// Keys, `[rows, k_heads · head_dim]`.
    pub k: CUdeviceptr,
    /// Key heads; may be 0.
    pub k_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Rows: sequences times `length`.
    pub rows: usize,
    /// Positions a sequence: row `r` stands at position `r % length` of the tables.
    pub length: usize,
}

impl Rope {
    /// Loads the kernel into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("rope"))?;
        Ok(Self {
            kernel: packed_kernel(&module, "rope")?,
            _module: module,
        })
    }

    /// Halves `a`, `b` of each head become `a cos - b sin`, `b cos + a sin`.
    ///
    /// # Safety
    /// `q` and `k` have the sizes that `heads` tells, `cos` and `sin` are `[length, head_dim / 2]` f32 values; all are
    /// aligned to 16 bytes.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn run(
        &self,
        heads: &Heads,
        (cos, sin): (CUdeviceptr, CUdeviceptr),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let half = heads.head_dim / 2;
        let (function, pack) = self.kernel.pick(element, half);
        let threads = heads.rows * (heads.q_heads + heads.k_heads) * (half / pack);
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            function.launch_overlapping(
                [threads.div_ceil(THREADS) as u32, 1, 1],
                THREADS as u32,
                0,
                stream,
                arguments![
                    &heads.q,
                    &heads.k,
                    &cos,
                    &sin,
                    &(heads.rows as i32),
                    &(heads.length as i32),
                    &(heads.q_heads as i32),
                    &(heads.k_heads as i32),
                    &(half as i32),
                ],
            )
        }
    }
}
