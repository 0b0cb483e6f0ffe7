//! One pass's tokens, masks and rotary tables.

use std::rc::Rc;

use qbench_architectures::Pass;
use qbench_kernels::CUdeviceptr;
use qbench_sdk::{Result, backend::Cache};

use super::CudaOps;
use crate::{buffer::Buffer, step::Input};

/// One pass.
pub(crate) struct Tokens {
    /// u32 ids.
    pub(super) ids: CUdeviceptr,
    /// The index of each sequence's last row, u32.
    pub(super) last_rows: CUdeviceptr,
    /// A byte a position.
    pub(super) mask: CUdeviceptr,
    /// Bytes between two sequences' masks.
    pub(super) mask_stride: usize,
    pub(super) cos: CUdeviceptr,
    pub(super) sin: CUdeviceptr,
    pub(super) batch: usize,
    pub(super) length: usize,
    pub(super) past: usize,
    pub(super) padded: bool,
    pub(super) held: Held,
}

/// Rotary tables of the positions `past .. past + length`.
pub(super) struct Angles {
    past: usize,
    length: usize,
    cos: Buffer,
    sin: Buffer,
}

/// The memory of a pass.
pub(super) enum Held {
    Pass { _tokens: Buffer, _angles: Rc<Angles> },
    Step(Rc<Input>),
}

// SAFETY: as for `CudaOps`.
unsafe impl Send for Tokens {}

impl Tokens {
    pub(super) fn rows(&self) -> usize {
        self.batch * self.length
    }
}

impl CudaOps {
    /// The rotary tables of a pass: those of the last one where they are the same.
    fn angles(&self, pass: &Pass<'_>) -> Result<Rc<Angles>> {
        let (past, length) = (pass.past, pass.tokens.length);
        let mut kept = self.angles.borrow_mut();
        if let Some(angles) = kept
            .as_ref()
            .filter(|angles| (angles.past, angles.length) == (past, length))
        {
            return Ok(angles.clone());
        }
        let angles = Rc::new(Angles {
            past,
            length,
            cos: self.gpu.upload(bytemuck::cast_slice(pass.cos))?,
            sin: self.gpu.upload(bytemuck::cast_slice(pass.sin))?,
        });
        *kept = Some(angles.clone());
        Ok(angles)
    }

    /// Brings a pass's tokens to the GPU, and starts its clock.
    pub(super) fn begin_pass(&self, pass: &Pass<'_>) -> Result<Tokens> {
        self.gpu.bind()?;
        self.timed.set(false);
        let tokens = &pass.tokens;
        let padded = tokens.mask.contains(&0);
        let (batch, length, past) = (tokens.batch, tokens.length, pass.past);
        if length == 1 && tokens.cache != Cache::None {
            let input = self.steps.upload(&self.gpu, pass)?;
            self.gpu.record(&self.started)?;
            return Ok(Tokens {
                ids: input.ids(),
                last_rows: input.last_rows(),
                mask: input.mask(),
                mask_stride: input.mask_stride(),
                cos: input.cos(),
                sin: input.sin(),
                batch,
                length,
                past,
                padded,
                held: Held::Step(input),
            });
        }
        let rows = batch * length;
        let mut bytes = Vec::with_capacity((rows + batch) * size_of::<u32>() + tokens.mask.len());
        bytes.extend_from_slice(bytemuck::cast_slice(tokens.ids));
        bytes.extend((1..=batch).flat_map(|sequence| ((sequence * length - 1) as u32).to_ne_bytes()));
        bytes.extend_from_slice(tokens.mask);
        let angles = self.angles(pass)?;
        let buffer = self.gpu.upload(&bytes)?;
        self.gpu.record(&self.started)?;
        let last_rows = buffer.address() + (rows * size_of::<u32>()) as u64;
        Ok(Tokens {
            ids: buffer.address(),
            last_rows,
            mask: last_rows + (batch * size_of::<u32>()) as u64,
            mask_stride: past + length,
            cos: angles.cos.address(),
            sin: angles.sin.address(),
            batch,
            length,
            past,
            padded,
            held: Held::Pass {
                _tokens: buffer,
                _angles: angles,
            },
        })
    }
}
