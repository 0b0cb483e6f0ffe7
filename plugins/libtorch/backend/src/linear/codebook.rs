//! `qbench.block-codebook/1` by torch's operations: on every device, equal bit for bit to what the layout says, and so to
//! bitsandbytes.

use qbench_sdk::{
    Result,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
};
use tch::{Kind, Tensor};

use super::held::Held;
use crate::error::Named;

/// A weight as codes, and what turns bytes of codes into values.
pub(super) struct CodebookWeight {
    layout: BlockCodebook,
    held: Held,
    /// `[256, codes a byte]`: the values that a byte of codes stands for, in order.
    values: Tensor,
}

impl CodebookWeight {
    pub(super) fn new(layout: BlockCodebook, held: Held) -> Result<Self> {
        let values = byte_values(&layout, held.tensor(1))?;
        Ok(Self { layout, held, values })
    }

    pub(super) fn layout(&self) -> &BlockCodebook {
        &self.layout
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// The weight as `[rows, cols]` of `kind`: each value one f32 product, rounded once.
    pub(super) fn decode(&self, kind: Kind) -> Result<Tensor> {
        let (rows, cols) = (self.layout.rows as i64, self.layout.cols as i64);
        // Blocks that cross rows are those of one long row.
        let (lines, length) = match self.layout.blocks {
            Blocks::Flat => (1, rows * cols),
            Blocks::PerRow => (rows, cols),
        };
        let block = self.layout.block as i64;
        let indices = self.held.tensor(0).f_to_kind(Kind::Int).op("to int")?;
        let values = self.values.f_index_select(0, &indices).op("index_select")?;
        drop(indices);
        // Whole bytes and whole blocks a line: what is too much is cut, what is too little is filled with zeros.
        let values = fit(&values.f_view([lines, -1]).op("view")?, length)?;
        let blocks = (length as usize).div_ceil(self.layout.block) as i64;
        let mut values = fit(&values, blocks * block)?
            .f_view([lines, blocks, block])
            .op("view")?;
        let scales = self.scales()?.f_view([lines, blocks, 1]).op("view")?;
        // In place: the values were made here.
        let _ = values.f_mul_(&scales).op("mul_")?;
        let values = fit(&values.f_view([lines, -1]).op("view")?, length)?;
        values
            .f_reshape([rows, cols])
            .op("reshape")?
            .f_to_kind(kind)
            .op("to the precision")
    }

    /// A scale a block, f32.
    fn scales(&self) -> Result<Tensor> {
        let Scale::Coded { block } = self.layout.scale else {
            return Ok(self.held.tensor(2).shallow_clone());
        };
        let [codes, scales, table, offset] = [2, 3, 4, 5].map(|index| self.held.tensor(index));
        let (count, groups) = (codes.numel() as i64, codes.numel().div_ceil(block) as i64);
        let block = block as i64;
        let indices = codes.f_to_kind(Kind::Int).op("to int")?;
        let values = table.f_index_select(0, &indices).op("index_select")?;
        let values = fit(&values.f_view([1, -1]).op("view")?, groups * block)?;
        let values = values
            .f_view([groups, block])
            .op("view")?
            .f_mul(&scales.f_view([groups, 1]).op("view")?)
            .op("mul")?
            .f_add(offset)
            .op("add")?;
        fit(&values.f_view([1, -1]).op("view")?, count)
    }
}

/// The first `length` columns, filled up with zeros; contiguous.
fn fit(lines: &Tensor, length: i64) -> Result<Tensor> {
    let found = lines.size()[1];
    match found.cmp(&length) {
        std::cmp::Ordering::Equal => Ok(lines.shallow_clone()),
        std::cmp::Ordering::Less => lines.f_constant_pad_nd([0, length - found]).op("constant_pad_nd"),
        std::cmp::Ordering::Greater => lines
            .f_narrow(1, 0, length)
            .op("narrow")?
            .f_contiguous()
            .op("contiguous"),
    }
}

/// `[256, codes a byte]` from the table of one code.
fn byte_values(layout: &BlockCodebook, codebook: &Tensor) -> Result<Tensor> {
    if layout.bits == 8 {
        return codebook.f_view([256, 1]).op("view");
    }
    let each: Vec<i64> = (0..256)
        .flat_map(|byte| match layout.order {
            NibbleOrder::HighFirst => [byte >> 4, byte & 15],
            NibbleOrder::LowFirst => [byte & 15, byte >> 4],
        })
        .collect();
    let indices = Tensor::f_from_slice(&each)
        .op("from_slice")?
        .f_to_device(codebook.device())
        .op("to device")?;
    codebook
        .f_index_select(0, &indices)
        .op("index_select")?
        .f_view([256, 2])
        .op("view")
}
