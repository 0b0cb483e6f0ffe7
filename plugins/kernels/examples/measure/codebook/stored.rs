//! Random matrices in block codebooks.

use qbench_kernels::{Codebook, Scales};

use crate::{
    device::{Buffer, Result},
    random::Random,
};

/// Scales in 8 bits, on the device.
struct Coded {
    codes: Buffer<u8>,
    second: Buffer<f32>,
    map: Buffer<f32>,
    offset: Buffer<f32>,
}

/// A matrix on the device and what it was made of.
pub(super) struct Stored {
    pub(super) rows: usize,
    pub(super) cols: usize,
    block: usize,
    per_row: bool,
    low_first: bool,
    pub(super) host_codes: Vec<u8>,
    host_table: Vec<f32>,
    pub(super) host_scales: Vec<f32>,
    pub(super) codes: Buffer<u8>,
    table: Buffer<f32>,
    pub(super) scales: Buffer<f32>,
    coded: Option<Coded>,
}

impl Stored {
    pub(super) fn random(
        random: &mut Random,
        (rows, cols, block): (usize, usize, usize),
        (per_row, low_first, coded): (bool, bool, bool),
    ) -> Result<Self> {
        let (row_bytes, blocks) = if per_row {
            (rows * cols.div_ceil(2), rows * cols.div_ceil(block))
        } else {
            ((rows * cols).div_ceil(2), (rows * cols).div_ceil(block))
        };
        let host_codes = random.bytes(row_bytes);
        let host_table: Vec<f32> = (0..16).map(|_| random.normal()).collect();
        let mut host_scales: Vec<f32> = (0..blocks).map(|_| 0.01 + random.uniform() * 0.03).collect();
        let mut device_coded = None;
        if coded {
            let codes = random.bytes(blocks);
            let second: Vec<f32> = (0..blocks.div_ceil(256))
                .map(|_| 0.005 + random.uniform() * 0.01)
                .collect();
            let map: Vec<f32> = (0..256).map(|_| random.normal()).collect();
            let offset = 0.03_f32;
            for (index, scale) in host_scales.iter_mut().enumerate() {
                *scale = map[usize::from(codes[index])] * second[index / 256] + offset;
            }
            device_coded = Some(Coded {
                codes: Buffer::of(&codes)?,
                second: Buffer::of(&second)?,
                map: Buffer::of(&map)?,
                offset: Buffer::of(&[offset])?,
            });
        }
        Ok(Self {
            rows,
            cols,
            block,
            per_row,
            low_first,
            codes: Buffer::of(&host_codes)?,
            table: Buffer::of(&host_table)?,
            scales: Buffer::of(&host_scales)?,
            host_codes,
            host_table,
            host_scales,
            coded: device_coded,
        })
    }

    pub(super) fn weight(&self) -> Codebook {
        Codebook {
            rows: self.rows,
            cols: self.cols,
            block: self.block,
            per_row: self.per_row,
            low_first: self.low_first,
            codes: self.codes.at,
            table: self.table.at,
            scales: match &self.coded {
                None => Scales::Plain(self.scales.at),
                Some(coded) => Scales::Coded {
                    codes: coded.codes.at,
                    scales: coded.second.at,
                    table: coded.map.at,
                    offset: coded.offset.at,
                    block: 256,
                },
            },
        }
    }

    /// One element, as one f32 product.
    pub(super) fn element(&self, row: usize, col: usize) -> f32 {
        let flat = row * self.cols + col;
        let (position, scale) = if self.per_row {
            (
                row * self.cols.next_multiple_of(2) + col,
                row * self.cols.div_ceil(self.block) + col / self.block,
            )
        } else {
            (flat, flat / self.block)
        };
        let byte = self.host_codes[position / 2];
        let high = position.is_multiple_of(2) != self.low_first;
        let code = if high { byte >> 4 } else { byte & 15 };
        self.host_table[usize::from(code)] * self.host_scales[scale]
    }
}
