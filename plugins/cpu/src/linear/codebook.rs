//! `qbench.block-codebook/1`: 4-bit weights, decoded a panel at a time.

use std::ops::Range;

use qbench_sdk::{
    DType, Result, StoredTensor,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
};

use super::{dequantize, floats, panels::Panels};
use crate::elementwise::round;

/// A weight whose codes stay as they are stored.
pub(super) struct CodebookWeight {
    tensor: Box<dyn StoredTensor>,
    layout: BlockCodebook,
    precision: DType,
    /// The two values of each byte of 4-bit codes, in the order of their elements.
    pairs: Vec<[f32; 2]>,
    /// The second level's table and offset, where scales are coded.
    scale_codebook: Vec<f32>,
    scale_offset: f32,
}

impl CodebookWeight {
    pub(super) fn new(tensor: Box<dyn StoredTensor>, layout: BlockCodebook, precision: DType) -> Self {
        let codebook = floats(tensor.buffer(1));
        let pairs = if layout.bits == 4 {
            (0..256)
                .map(|byte| match layout.order {
                    NibbleOrder::HighFirst => [codebook[byte >> 4], codebook[byte & 15]],
                    NibbleOrder::LowFirst => [codebook[byte & 15], codebook[byte >> 4]],
                })
                .collect()
        } else {
            Vec::new()
        };
        let (scale_codebook, scale_offset) = match layout.scale {
            Scale::F32 => (Vec::new(), 0.0),
            Scale::Coded { .. } => (floats(tensor.buffer(4)), floats(tensor.buffer(5))[0]),
        };
        Self {
            tensor,
            layout,
            precision,
            pairs,
            scale_codebook,
            scale_offset,
        }
    }

    pub(super) fn tensor(&self) -> &dyn StoredTensor {
        self.tensor.as_ref()
    }

    /// Decodes the elements `elements` of the run of codes that begins with byte `codes[0]` and block `first_block`.
    fn decode_run(
        &self,
        codes: &[u8],
        scales: &Scales<'_>,
        first_block: usize,
        elements: Range<usize>,
        mut out: &mut [f32],
    ) {
        let block = self.layout.block;
        let mut at = elements.start;
        while at < elements.end {
            let number = at / block;
            let end = ((number + 1) * block).min(elements.end);
            let (values, rest) = out.split_at_mut(end - at);
            self.decode_block(codes, at, scales.get(first_block + number), values);
            out = rest;
            at = end;
        }
    }

    /// Decodes elements of one block, the first of which is element `at` of `codes`.
    fn decode_block(&self, codes: &[u8], at: usize, scale: f32, values: &mut [f32]) {
        // An odd element is the second of its byte; blocks are not empty.
        let (second, values) = values.split_at_mut(at % 2);
        if let [value] = second {
            *value = self.pairs[usize::from(codes[at / 2])][1] * scale;
        }
        let codes = &codes[at.div_ceil(2)..];
        let (pairs, tail) = values.as_chunks_mut::<2>();
        for (pair, code) in pairs.iter_mut().zip(codes) {
            let [first, second] = self.pairs[usize::from(*code)];
            *pair = [first * scale, second * scale];
        }
        if let [value] = tail {
            *value = self.pairs[usize::from(codes[pairs.len()])][0] * scale;
        }
    }
}

impl Panels for CodebookWeight {
    fn panel<'a>(&'a self, rows: Range<usize>, scratch: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        let cols = self.layout.cols;
        scratch.resize(rows.len() * cols, 0.0);
        let values = &mut scratch[..rows.len() * cols];
        if self.layout.bits != 4 {
            dequantize(self.tensor(), rows.start, values, cols, self.precision)?;
            return Ok(values);
        }
        let codes = self.tensor.buffer(0);
        let scales = Scales::new(self);
        match self.layout.blocks {
            Blocks::Flat => self.decode_run(codes, &scales, 0, rows.start * cols..rows.end * cols, values),
            Blocks::PerRow => {
                let (row_bytes, row_blocks) = (cols.div_ceil(2), cols.div_ceil(self.layout.block));
                for (row, values) in rows.zip(values.chunks_exact_mut(cols)) {
                    self.decode_run(
                        &codes[row * row_bytes..],
                        &scales,
                        row * row_blocks,
                        0..cols,
                        values,
                    );
                }
            }
        }
        round(values, self.precision);
        Ok(values)
    }
}

/// The scales of blocks, as stored.
enum Scales<'a> {
    Plain(&'a [u8]),
    Coded {
        codes: &'a [u8],
        scales: &'a [u8],
        block: usize,
        codebook: &'a [f32],
        offset: f32,
    },
}

impl<'a> Scales<'a> {
    fn new(weight: &'a CodebookWeight) -> Self {
        match weight.layout.scale {
            Scale::F32 => Self::Plain(weight.tensor.buffer(2)),
            Scale::Coded { block } => Self::Coded {
                codes: weight.tensor.buffer(2),
                scales: weight.tensor.buffer(3),
                block,
                codebook: &weight.scale_codebook,
                offset: weight.scale_offset,
            },
        }
    }

    fn get(&self, block: usize) -> f32 {
        let float = |bytes: &[u8], index: usize| f32::from_le_bytes(bytes.as_chunks::<4>().0[index]);
        match self {
            Self::Plain(scales) => float(scales, block),
            Self::Coded {
                codes,
                scales,
                block: size,
                codebook,
                offset,
            } => codebook[usize::from(codes[block])] * float(scales, block / size) + offset,
        }
    }
}
