//! `4bit_nf4`, `4bit_fp4` and `4bit_nf4_double`: blocks of 4-bit codes into a table (Dettmers et al. 2023, QLoRA).

#[cfg(target_arch = "x86_64")]
mod avx512;
mod bins;
mod quantize;

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo,
    layout::{
        BlockCodebook, Blocks, NibbleOrder, Scale,
        four_bit::{FP4, NF4, Table},
    },
    narrow,
};

use crate::{nested, storage};

const DEFAULT_BLOCK: usize = 64;

/// Stores blocks of weights as 4-bit codes and the block's largest magnitude.
#[derive(Clone, Copy, Debug)]
pub struct FourBit {
    id: &'static str,
    alias: &'static str,
    summary: &'static str,
    table: &'static Table,
    /// Whether the magnitudes are quantised themselves.
    double: bool,
    block: usize,
}

impl FourBit {
    /// Opens `4bit_nf4`. Option `block`: elements a block, a power of two from 32 to 4096.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another option or block size.
    pub fn open_nf4(options: &Options) -> Result<Self> {
        Self {
            id: "4bit_nf4",
            alias: "nf4",
            summary: "NormalFloat4: 4-bit normal quantiles, an f32 scale a block",
            table: &NF4,
            double: false,
            block: DEFAULT_BLOCK,
        }
        .with(options)
    }

    /// Opens `4bit_fp4`. Options are those of [`open_nf4`](Self::open_nf4).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another option or block size.
    pub fn open_fp4(options: &Options) -> Result<Self> {
        Self {
            id: "4bit_fp4",
            alias: "fp4",
            summary: "4-bit floating point, an f32 scale a block",
            table: &FP4,
            double: false,
            block: DEFAULT_BLOCK,
        }
        .with(options)
    }

    /// Opens `4bit_nf4_double`. Options are those of [`open_nf4`](Self::open_nf4).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another option or block size.
    pub fn open_nf4_double(options: &Options) -> Result<Self> {
        Self {
            id: "4bit_nf4_double",
            alias: "nf4_double",
            summary: "NormalFloat4 with scales in 8 bits (double quantisation)",
            table: &NF4,
            double: true,
            block: DEFAULT_BLOCK,
        }
        .with(options)
    }

    fn with(mut self, options: &Options) -> Result<Self> {
        let mut options = options.clone();
        self.block = options.take("block", self.block)?;
        options.finish(&["block"])?;
        if self.block.is_power_of_two() && (32..=4096).contains(&self.block) {
            Ok(self)
        } else {
            Err(Error::InvalidArgument(format!(
                "option `block={}`: expected a power of two from 32 to 4096",
                self.block
            )))
        }
    }
}

impl QuantScheme for FourBit {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: self.id.to_owned(),
            aliases: vec![self.alias.to_owned()],
            summary: self.summary.to_owned(),
            options: vec![("block".to_owned(), DEFAULT_BLOCK.to_string())],
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        storage::quantizable(self.id, rows, cols, source)?;
        let layout = Layout::BlockCodebook(BlockCodebook {
            rows,
            cols,
            bits: 4,
            order: NibbleOrder::HighFirst,
            blocks: Blocks::Flat,
            block: self.block,
            scale: if self.double {
                Scale::Coded { block: nested::BLOCK }
            } else {
                Scale::F32
            },
        });
        layout.validate()?;
        Ok(layout)
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        let quantize =
            |codes: &mut [u8]| quantize::quantize(&source, self.block, self.table, codes, context.threads);
        if self.double {
            let [
                codes,
                codebook,
                absmax_codes,
                absmax_scales,
                absmax_codebook,
                absmax_offset,
            ] = storage::buffers(self, &source, layout, buffers)?;
            narrow(&self.table.values, DType::F32, codebook)?;
            let absmax = nested::quantize(&quantize(codes)?, absmax_codes);
            narrow(&absmax.scales, DType::F32, absmax_scales)?;
            narrow(&nested::DYNAMIC_MAP, DType::F32, absmax_codebook)?;
            narrow(&[absmax.offset], DType::F32, absmax_offset)
        } else {
            let [codes, codebook, absmax] = storage::buffers(self, &source, layout, buffers)?;
            narrow(&self.table.values, DType::F32, codebook)?;
            narrow(&quantize(codes)?, DType::F32, absmax)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_checked() {
        let open = |options: &str| FourBit::open_nf4(&Options::parse(options).unwrap());
        assert_eq!(open("").unwrap().block, 64);
        for block in [32, 4096] {
            assert_eq!(open(&format!("block={block}")).unwrap().block, block);
        }
        for bad in [
            "block=0",
            "block=16",
            "block=96",
            "block=8192",
            "block=-64",
            "block=x",
            "threshold=6",
        ] {
            let error = open(bad).unwrap_err().to_string();
            assert!(error.contains(bad.split('=').next().unwrap()), "{error}");
        }
    }
}
