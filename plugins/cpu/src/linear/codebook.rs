//! `qbench.block-codebook/1`: codes stay as they are stored and are decoded on their way into a product.

use std::ops::Range;

use qbench_cpu_kernels::{
    InstructionSet, Operand,
    codebook::{self, DOT_TOKENS, Rounding, Run, Tokens},
    matrix::SharedMatrix,
};
use qbench_sdk::{
    DType, Result, StoredTensor,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
};

use super::{
    dequantize_bytes, floats,
    product::{product, rows_of_few_tokens},
    rows::{Rows, Scratch, elements},
};
use crate::{kernels::Kernels, parallel};

/// A weight whose codes stay as they are stored.
pub(super) struct CodebookWeight {
    tensor: Box<dyn StoredTensor>,
    layout: BlockCodebook,
    precision: DType,
    set: InstructionSet,
    /// The values of 4-bit codes; unused for 8 bits.
    codebook: [f32; 16],
    /// The second level's table and offset, where scales are coded.
    scale_codebook: Box<[f32; 256]>,
    scale_offset: f32,
}

impl CodebookWeight {
    pub(super) fn new(
        tensor: Box<dyn StoredTensor>,
        layout: BlockCodebook,
        precision: DType,
        kernels: Kernels,
    ) -> Self {
        let values = floats(tensor.buffer(1));
        let mut scale_codebook = Box::new([0.0; 256]);
        let mut scale_offset = 0.0;
        if let Scale::Coded { .. } = layout.scale {
            let values = floats(tensor.buffer(4));
            scale_codebook[..values.len()].copy_from_slice(&values);
            scale_offset = floats(tensor.buffer(5))[0];
        }
        Self {
            codebook: std::array::from_fn(|code| values[code]),
            tensor,
            layout,
            precision,
            set: match kernels {
                Kernels::Reference => InstructionSet::Portable,
                Kernels::Own(set) => set,
            },
            scale_codebook,
            scale_offset,
        }
    }

    pub(super) fn tensor(&self) -> &dyn StoredTensor {
        self.tensor.as_ref()
    }

    pub(super) fn product(
        &self,
        kernels: Kernels,
        x: &[f32],
        out: &mut [f32],
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) -> Result<()> {
        let (rows, cols) = (self.layout.rows, self.layout.cols);
        let few = x.len() <= DOT_TOKENS * cols;
        if few
            && kernels != Kernels::Reference
            && self.layout.bits == 4
            && codebook::can_dot(self.set, cols, self.layout.block)
        {
            return self.few_tokens(x, out, finish);
        }
        product(kernels, self.precision, x, self, (rows, cols), out, finish)
    }

    /// A token or a few: every code is read once, and decoded in a register.
    fn few_tokens(
        &self,
        x: &[f32],
        out: &mut [f32],
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) -> Result<()> {
        let (rows, cols) = (self.layout.rows, self.layout.cols);
        let x = Tokens::new(self.set, self.rounding(), self.layout.block, x, cols);
        let tokens = x.count();
        let out = SharedMatrix::new(out, tokens, rows);
        // Rows of whole blocks lie one after the other in either layout.
        let is_flat = self.layout.blocks == Blocks::Flat || cols.is_multiple_of(self.layout.block);
        let rows_a_task = rows_of_few_tokens(rows, cols / 2);
        let rows_a_run = if is_flat { rows_a_task } else { 1 };
        parallel::for_each_init(rows.div_ceil(rows_a_task), Vec::new, |scales, task| {
            let rows = task * rows_a_task..((task + 1) * rows_a_task).min(rows);
            for start in rows.clone().step_by(rows_a_run) {
                let part = start..(start + rows_a_run).min(rows.end);
                // SAFETY: tasks and their parts differ in their weight rows, so their blocks share no element.
                let mut block = unsafe { out.block(0..tokens, part.clone()) };
                codebook::dots(self.set, self.run(part, scales), &x, &mut block);
                for token in 0..tokens {
                    finish(block.row(token), start);
                }
            }
            Ok(())
        })
    }

    /// Rows that lie one after the other in the codes: any of a flat layout or of whole blocks, else one.
    fn run<'a>(&'a self, rows: Range<usize>, scales: &'a mut Vec<f32>) -> Run<'a> {
        let (cols, block) = (self.layout.cols, self.layout.block);
        let length = rows.len() * cols;
        let (nibble, first_block, before) = match self.layout.blocks {
            Blocks::Flat => {
                let start = rows.start * cols;
                (start, start / block, start % block)
            }
            Blocks::PerRow => (
                rows.start * cols.div_ceil(2) * 2,
                rows.start * cols.div_ceil(block),
                0,
            ),
        };
        let blocks = (before + length).div_ceil(block);
        Run {
            codes: &self.tensor.buffer(0)[nibble / 2..],
            starts_second: nibble % 2 == 1,
            high_first: self.layout.order == NibbleOrder::HighFirst,
            codebook: &self.codebook,
            block,
            before,
            scales: self.scales(first_block, blocks, scales),
            rounding: self.rounding(),
        }
    }

    fn rounding(&self) -> Rounding {
        match self.precision {
            DType::BF16 => Rounding::Bf16,
            DType::F16 => Rounding::F16,
            DType::F32 | DType::I8 | DType::U8 => Rounding::F32,
        }
    }

    /// The scales of `count` blocks from `first` on: as they lie, or decoded into `decoded`.
    fn scales<'a>(&'a self, first: usize, count: usize, decoded: &'a mut Vec<f32>) -> &'a [f32] {
        decoded.clear();
        match self.layout.scale {
            Scale::F32 => {
                let bytes = &self.tensor.buffer(2)[first * 4..(first + count) * 4];
                if cfg!(target_endian = "little")
                    && let Ok(scales) = bytemuck::try_cast_slice(bytes)
                {
                    return scales;
                }
                decoded.extend(
                    bytes
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|bytes| f32::from_le_bytes(*bytes)),
                );
            }
            Scale::Coded { block } => {
                let codes = &self.tensor.buffer(2)[first..first + count];
                let scales = self.tensor.buffer(3).as_chunks::<4>().0;
                let mut at = 0;
                while at < count {
                    // Up to the end of a block of the second level.
                    let number = (first + at) / block;
                    let end = ((number + 1) * block - first).min(count);
                    let scale = f32::from_le_bytes(scales[number]);
                    decoded.extend(
                        codes[at..end]
                            .iter()
                            .map(|code| self.scale_codebook[usize::from(*code)] * scale + self.scale_offset),
                    );
                    at = end;
                }
            }
        }
        decoded
    }

    /// Decodes rows as f32 or bf16.
    fn decode<T: bytemuck::Pod>(
        &self,
        rows: Range<usize>,
        scratch: &mut Scratch,
        decode: impl Fn(InstructionSet, Run<'_>, &mut [T]),
    ) {
        let cols = self.layout.cols;
        let values = elements(scratch, rows.len() * cols);
        let mut scales = Vec::new();
        match self.layout.blocks {
            Blocks::Flat => decode(self.set, self.run(rows, &mut scales), values),
            Blocks::PerRow => {
                for (row, values) in rows.zip(values.chunks_exact_mut(cols.max(1))) {
                    decode(self.set, self.run(row..row + 1, &mut scales), values);
                }
            }
        }
    }
}

impl Rows for CodebookWeight {
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        operand: Operand,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8]> {
        let count = rows.len() * self.layout.cols;
        if self.layout.bits != 4 {
            return dequantize_bytes(self.tensor(), rows, operand, self.precision, scratch);
        }
        Ok(if operand == Operand::Bf16 {
            self.decode(rows, scratch, codebook::decode_bf16);
            bytemuck::cast_slice(elements::<u16>(scratch, count))
        } else {
            self.decode(rows, scratch, codebook::decode_f32);
            bytemuck::cast_slice(elements::<f32>(scratch, count))
        })
    }
}
