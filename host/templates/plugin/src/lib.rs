//! `{{name}}`: weights rounded to 15 evenly spaced levels, each block of a row with a scale of its own.
//!
//! The storage is described as a block codebook, so every backend that knows this kind of layout runs it with its own
//! kernels; there is nothing here but the rounding.

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo,
    export_plugin,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
    narrow,
};

const ID: &str = "{{name}}";

/// Weights that share a scale, unless the user says otherwise (`{{name}}:block=64`).
const DEFAULT_BLOCK: usize = 32;

/// Levels on either side of zero. Code `c` stands for `(c - LEVELS) / LEVELS`.
const LEVELS: i32 = 7;

/// The scheme with its options.
struct Scheme {
    block: usize,
}

impl Scheme {
    /// Reads the options. `finish` refuses those that nobody took.
    fn open(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let block = options.take("block", DEFAULT_BLOCK)?;
        options.finish(&["block"])?;
        if !(8..=4096).contains(&block) {
            return Err(Error::InvalidArgument(format!(
                "option `block={block}`: expected 8 to 4096"
            )));
        }
        Ok(Self { block })
    }
}

impl QuantScheme for Scheme {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: ID.to_owned(),
            summary: "15 evenly spaced levels a block".to_owned(),
            options: vec![("block".to_owned(), DEFAULT_BLOCK.to_string())],
            ..SchemeInfo::default()
        }
    }

    /// How a matrix `[rows, cols]` is stored; its data is not seen yet.
    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if rows == 0 || cols == 0 || !source.is_float() {
            return Err(Error::Unsupported(format!(
                "{ID}: a {rows} x {cols} matrix of {source}"
            )));
        }
        let layout = Layout::BlockCodebook(BlockCodebook {
            rows,
            cols,
            bits: 4,
            order: NibbleOrder::LowFirst,
            blocks: Blocks::PerRow,
            block: self.block,
            scale: Scale::F32,
        });
        layout.validate()?;
        Ok(layout)
    }

    /// Fills the layout's buffers: two codes a byte, the table of the codes' values, and a scale a block.
    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        _context: CallContext,
    ) -> Result<()> {
        let (rows, cols) = (source.rows(), source.cols());
        if *layout != self.layout(rows, cols, source.dtype())? {
            return Err(Error::InvalidArgument(format!(
                "{ID}: not the layout of a {rows} x {cols} matrix"
            )));
        }
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        let [codes, codebook, scales] = buffers else {
            return Err(Error::InvalidArgument(format!(
                "{ID}: expected three buffers"
            )));
        };
        narrow(&values_of_codes(), DType::F32, codebook)?;
        let mut values = vec![0.0; cols];
        let mut row_scales = vec![0.0; cols.div_ceil(self.block)];
        let rows_of_buffers = codes
            .chunks_exact_mut(cols.div_ceil(2))
            .zip(scales.chunks_exact_mut(row_scales.len() * DType::F32.size()));
        for (row, (codes, scales)) in rows_of_buffers.enumerate() {
            source.read_row(row, &mut values)?;
            for (block, (values, scale)) in
                values.chunks(self.block).zip(&mut row_scales).enumerate()
            {
                *scale = largest_magnitude(values);
                for (index, value) in values.iter().enumerate() {
                    let at = block * self.block + index;
                    codes[at / 2] |= code(*value, *scale) << (4 * (at % 2));
                }
            }
            narrow(&row_scales, DType::F32, scales)?;
        }
        Ok(())
    }
}

/// The table of the layout: the last of the 16 codes is not used.
fn values_of_codes() -> [f32; 16] {
    std::array::from_fn(|code| (code as i32 - LEVELS).min(LEVELS) as f32 / LEVELS as f32)
}

/// NaN if any value is NaN: magnitudes are ordered as their bits are, with NaN above infinity.
fn largest_magnitude(values: &[f32]) -> f32 {
    f32::from_bits(
        values
            .iter()
            .map(|value| value.abs().to_bits())
            .max()
            .unwrap_or(0),
    )
}

/// The code of the level nearest to `value`. In a block of zeros 0 / 0 is NaN, which a cast turns into level 0.
fn code(value: f32, scale: f32) -> u8 {
    let level = (value / scale * LEVELS as f32).round_ties_even() as i32;
    (level.clamp(-LEVELS, LEVELS) + LEVELS) as u8
}

export_plugin!(schemes: [Scheme::open]);

#[cfg(test)]
mod tests {
    use qbench_sdk::conformance::{check_scheme, stored_buffers};

    use super::*;

    #[test]
    fn the_contract_is_kept() {
        for options in ["", "block=8", "block=100"] {
            let options = Options::parse(options).unwrap();
            check_scheme(Scheme::open, &options).assert_passed();
        }
    }

    #[test]
    fn a_block_by_hand() {
        // Scale 7: the levels are the whole numbers from -7 to 7, whose codes are 0 to 14.
        let weights: Vec<u8> = [7.0_f32, -2.6, 0.4, 0.6]
            .iter()
            .flat_map(|weight| weight.to_le_bytes())
            .collect();
        let scheme = Scheme::open(&Options::none()).unwrap();
        let matrix = Matrix::new(&weights, 1, 4, DType::F32).unwrap();
        let buffers = stored_buffers(&scheme, matrix).unwrap();
        assert_eq!(buffers[0][..], [0x4e, 0x87]);
        assert_eq!(buffers[2][..], 7.0_f32.to_le_bytes());
    }
}
