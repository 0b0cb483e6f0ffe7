//! Weights as a backend holds them.

use std::ops::Range;

use qbench_cpu_kernels::{
    InstructionSet, Operand,
    codebook::{self, Rounding, Run},
};

use crate::memory::floats;

/// Elements of a block, as NF4 has them by default.
const BLOCK: usize = 64;

/// Any table of 16 values.
const CODEBOOK: [f32; 16] = [
    -1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0,
];

/// A matrix of weights.
pub(crate) enum Weights {
    /// Elements of the operand.
    Dense { bytes: Vec<u8> },
    /// 4-bit codes into a table.
    Codes { codes: Vec<u8>, scales: Vec<f32> },
}

impl Weights {
    pub(crate) fn dense(operand: Operand, (rows, cols): (usize, usize)) -> Self {
        Self::Dense {
            bytes: elements(operand, rows * cols),
        }
    }

    pub(crate) fn codes((rows, cols): (usize, usize)) -> Self {
        Self::Codes {
            codes: (0..rows * cols / 2)
                .map(|i| (i * 197 + i / 7 * 31) as u8)
                .collect(),
            scales: (0..rows * cols / BLOCK)
                .map(|i| 0.01 + (i % 13) as f32 / 64.0)
                .collect(),
        }
    }

    /// Bytes that a product reads of it.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense { bytes } => bytes.len(),
            Self::Codes { codes, scales } => codes.len() + scales.len() * 4,
        }
    }

    /// Rows of `cols` elements as elements of the operand, decoded into `scratch` if need be.
    pub(crate) fn rows<'a>(
        &'a self,
        set: InstructionSet,
        operand: Operand,
        rows: Range<usize>,
        cols: usize,
        scratch: &'a mut Vec<f32>,
    ) -> &'a [u8] {
        let count = rows.len() * cols;
        match self {
            Self::Dense { bytes } => &bytes[rows.start * cols * operand.size()..][..count * operand.size()],
            Self::Codes { codes, scales } => {
                let run = run(codes, scales, rows.start, cols, Rounding::F32);
                scratch.resize(count, 0.0);
                if operand == Operand::Bf16 {
                    let out = &mut bytemuck::cast_slice_mut::<f32, u16>(scratch)[..count];
                    codebook::decode_bf16(set, run, out);
                    bytemuck::cast_slice(out)
                } else {
                    codebook::decode_f32(set, run, scratch);
                    bytemuck::cast_slice(scratch)
                }
            }
        }
    }
}

/// Codes from a row on.
pub(crate) fn run<'a>(
    codes: &'a [u8],
    scales: &'a [f32],
    first_row: usize,
    cols: usize,
    rounding: Rounding,
) -> Run<'a> {
    Run {
        codes: &codes[first_row * cols / 2..],
        starts_second: false,
        high_first: true,
        codebook: &CODEBOOK,
        block: BLOCK,
        before: 0,
        scales: &scales[first_row * cols / BLOCK..],
        rounding,
    }
}

/// Floats near one, or any codes.
pub(crate) fn elements(operand: Operand, count: usize) -> Vec<u8> {
    match operand {
        Operand::F32 => floats(count).into_iter().flat_map(f32::to_le_bytes).collect(),
        Operand::Bf16 => (0..count)
            .flat_map(|i| (0x3f80 + (i % 9) as u16).to_le_bytes())
            .collect(),
        Operand::I16 | Operand::I8 => (0..count * operand.size()).map(|i| (i % 251) as u8).collect(),
    }
}
