//! A weight matrix stored as codes into a table, in device memory.

use qbench_sdk::layout::{BlockCodebook, Blocks, NibbleOrder, Scale};

use crate::CUdeviceptr;

/// A matrix in the layout `qbench.block-codebook/1` with 4 bits a code: device pointers to its buffers.
#[derive(Clone, Copy, Debug)]
pub struct Codebook {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Elements a block.
    pub block: usize,
    /// Whether each row starts a new block and a new byte; otherwise blocks cross row ends.
    pub per_row: bool,
    /// Whether the lower nibble comes first.
    pub low_first: bool,
    /// Packed codes (u8), aligned to 16 bytes.
    pub codes: CUdeviceptr,
    /// The 16 values of the table (f32).
    pub table: CUdeviceptr,
    /// A scale a block, aligned to 16 bytes.
    pub scales: Scales,
}

impl Codebook {
    /// A matrix of this layout whose buffers lie at these addresses, in the layout's order; the last three are those of
    /// coded scales. Codes of 4 bits are taken for granted.
    pub fn at(layout: &BlockCodebook, at: &[CUdeviceptr; 6]) -> Self {
        Self {
            rows: layout.rows,
            cols: layout.cols,
            block: layout.block,
            per_row: layout.blocks == Blocks::PerRow,
            low_first: layout.order == NibbleOrder::LowFirst,
            codes: at[0],
            table: at[1],
            scales: match layout.scale {
                Scale::F32 => Scales::Plain(at[2]),
                Scale::Coded { block } => Scales::Coded {
                    codes: at[2],
                    scales: at[3],
                    table: at[4],
                    offset: at[5],
                    block,
                },
            },
        }
    }
}

/// The scales of a matrix's blocks.
#[derive(Clone, Copy, Debug)]
pub enum Scales {
    /// f32, one a block.
    Plain(CUdeviceptr),
    /// Coded in 8 bits: `table[codes[b]] · scales[b / block] + offset`.
    Coded {
        /// u8, one a block.
        codes: CUdeviceptr,
        /// f32, one a block of blocks.
        scales: CUdeviceptr,
        /// f32, 256.
        table: CUdeviceptr,
        /// f32, one.
        offset: CUdeviceptr,
        /// Scales a block of the second level.
        block: usize,
    },
}

/// `struct Scales` of `cuda/scales.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScalesArgument {
    plain: CUdeviceptr,
    codes: CUdeviceptr,
    second: CUdeviceptr,
    table: CUdeviceptr,
    offset: CUdeviceptr,
    second_block: u32,
}

impl Scales {
    /// Scales a block of the second level, of coded ones.
    pub(crate) fn second_block(self) -> Option<usize> {
        match self {
            Self::Plain(_) => None,
            Self::Coded { block, .. } => Some(block),
        }
    }

    pub(crate) fn argument(self) -> ScalesArgument {
        match self {
            Self::Plain(plain) => ScalesArgument {
                plain,
                codes: 0,
                second: 0,
                table: 0,
                offset: 0,
                second_block: 1,
            },
            Self::Coded {
                codes,
                scales,
                table,
                offset,
                block,
            } => ScalesArgument {
                plain: 0,
                codes,
                second: scales,
                table,
                offset,
                second_block: block as u32,
            },
        }
    }
}

impl Codebook {
    /// Whether element `i` of the flattened matrix lies in nibble `i` and block `i / block`.
    pub(crate) fn is_flat(&self) -> bool {
        !self.per_row || (self.cols.is_multiple_of(2) && self.cols.is_multiple_of(self.block))
    }

    /// The number of consecutive elements of a row, from a multiple of itself on, that share a scale: 64 or 32. `None`
    /// where the fused kernels cannot go: rows or blocks that do not start at whole units, blocks of no power of two,
    /// or more elements than 32 bits count.
    pub(crate) fn unit(&self) -> Option<usize> {
        let elements = self.rows.checked_mul(self.scale_stride())?;
        if !self.block.is_power_of_two() || elements > u32::MAX as usize || self.rows == 0 || self.cols == 0 {
            return None;
        }
        [64, 32]
            .into_iter()
            .find(|unit| self.cols.is_multiple_of(*unit) && self.block.is_multiple_of(*unit))
    }

    /// Elements, in blocks, from the start of a row's blocks to the next row's.
    pub(crate) fn scale_stride(&self) -> usize {
        if self.per_row {
            self.cols.next_multiple_of(self.block)
        } else {
            self.cols
        }
    }
}
