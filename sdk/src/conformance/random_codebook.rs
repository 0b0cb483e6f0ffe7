//! A scheme with a table that nobody expects.

use super::random::Random;
use crate::{
    CallContext, DType, Error, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo,
    layout::{BlockCodebook, Blocks, NibbleOrder, Scale},
    narrow,
};

/// Stores weights as codes into 16 random numbers, drawn from `seed` and in no order, with a scale a block.
///
/// Options: `block`, `order` (`high` or `low`: the nibble that comes first), `blocks` (`flat` or `row`), `scale` (`f32`
/// or `coded`), `seed`. A backend that claims the kind `qbench.block-codebook/1` runs every one of them.
#[derive(Clone, Debug)]
pub struct RandomCodebook {
    block: usize,
    order: NibbleOrder,
    blocks: Blocks,
    coded: bool,
    seed: u64,
}

const OPTIONS: [(&str, &str); 5] = [
    ("block", "32"),
    ("order", "low"),
    ("blocks", "row"),
    ("scale", "f32"),
    ("seed", "1"),
];

/// Scales a block of the second level, where scales are coded.
const SCALES_A_BLOCK: usize = 5;

fn one_of<T>(options: &mut Options, key: &str, default: &str, values: [(&str, T); 2]) -> Result<T> {
    let text: String = options.take(key, default.to_owned())?;
    let names = values.each_ref().map(|(name, _)| *name).join(" or ");
    let found = values.into_iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| value)
        .ok_or_else(|| Error::InvalidArgument(format!("option `{key}={text}`: expected {names}")))
}

impl RandomCodebook {
    /// Opens the scheme.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another option or value.
    pub fn open(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let scheme = Self {
            block: options.take("block", 32)?,
            order: one_of(
                &mut options,
                "order",
                "low",
                [("high", NibbleOrder::HighFirst), ("low", NibbleOrder::LowFirst)],
            )?,
            blocks: one_of(
                &mut options,
                "blocks",
                "row",
                [("flat", Blocks::Flat), ("row", Blocks::PerRow)],
            )?,
            coded: one_of(&mut options, "scale", "f32", [("f32", false), ("coded", true)])?,
            seed: options.take("seed", 1)?,
        };
        options.finish(&OPTIONS.map(|(name, _)| name))?;
        if scheme.block == 0 {
            return Err(Error::InvalidArgument(
                "option `block=0`: expected at least 1".to_owned(),
            ));
        }
        Ok(scheme)
    }

    /// Random numbers between -1 and 1, among them both ends and zero.
    fn codebook(&self) -> [f32; 16] {
        let mut random = Random::new(self.seed);
        let mut values = [0.0; 16];
        values.fill_with(|| (2.0 * random.unit() - 1.0) as f32);
        values[(self.seed % 16) as usize] = -1.0;
        values[((self.seed + 3) % 16) as usize] = 0.0;
        values[((self.seed + 7) % 16) as usize] = 1.0;
        values
    }
}

impl QuantScheme for RandomCodebook {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "random_codebook".to_owned(),
            summary: "codes into 16 random numbers".to_owned(),
            options: OPTIONS
                .map(|(name, default)| (name.to_owned(), default.to_owned()))
                .to_vec(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if !source.is_float() {
            return Err(Error::Unsupported(format!("weights of {source}")));
        }
        let layout = Layout::BlockCodebook(BlockCodebook {
            rows,
            cols,
            bits: 4,
            order: self.order,
            blocks: self.blocks,
            block: self.block,
            scale: if self.coded {
                Scale::Coded {
                    block: SCALES_A_BLOCK,
                }
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
        _context: CallContext,
    ) -> Result<()> {
        let expected = self.layout(source.rows(), source.cols(), source.dtype())?;
        let Layout::BlockCodebook(shape) = &expected else {
            return Err(Error::Internal("a layout of another kind".to_owned()));
        };
        if *layout != expected {
            return Err(Error::InvalidArgument(format!(
                "layout {layout:?}; expected {expected:?}"
            )));
        }
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        let codebook = self.codebook();
        narrow(&codebook, DType::F32, buffers[1])?;
        let mut scales = vec![0.0_f32; shape.block_count()];
        let mut values = vec![0.0; source.cols()];
        let position = |row: usize, col: usize| match shape.blocks {
            Blocks::Flat => (row * shape.cols + col, (row * shape.cols + col) / shape.block),
            // A row starts a new byte, which holds two codes.
            Blocks::PerRow => (
                row * shape.cols.next_multiple_of(2) + col,
                row * shape.cols.div_ceil(shape.block) + col / shape.block,
            ),
        };
        for row in 0..source.rows() {
            source.read_row(row, &mut values)?;
            for (col, value) in values.iter().enumerate() {
                let scale = &mut scales[position(row, col).1];
                *scale = nan_max(*scale, value.abs());
            }
        }
        if self.coded {
            code_scales(&mut scales, buffers)?;
        } else {
            narrow(&scales, DType::F32, buffers[2])?;
        }
        for row in 0..source.rows() {
            source.read_row(row, &mut values)?;
            for (col, value) in values.iter().enumerate() {
                let (at, block) = position(row, col);
                let code = nearest(&codebook, scales[block], *value);
                let high = at.is_multiple_of(2) == (self.order == NibbleOrder::HighFirst);
                buffers[0][at / 2] |= if high { code << 4 } else { code };
            }
        }
        Ok(())
    }
}

/// The larger number; NaN once either is.
fn nan_max(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else {
        a.max(b)
    }
}

fn nearest(codebook: &[f32; 16], scale: f32, value: f32) -> u8 {
    let distance = |entry: f32| (f64::from(entry * scale) - f64::from(value)).abs();
    let mut best = 0;
    for (code, entry) in codebook.iter().enumerate() {
        if distance(*entry) < distance(codebook[best]) {
            best = code;
        }
    }
    best as u8
}

/// Replaces scales by what eight bits keep of them: `table[code] · largest of its block + offset`.
fn code_scales(scales: &mut [f32], buffers: &mut [&mut [u8]]) -> Result<()> {
    // Zero is no entry, and the offset lifts all: a kernel that forgets either is seen.
    const OFFSET: f32 = 0.001;
    let table: Vec<f32> = (0..256).map(|code| (code as f32 + 0.5) / 256.0).collect();
    let mut second = Vec::new();
    for (scales, codes) in scales
        .chunks_mut(SCALES_A_BLOCK)
        .zip(buffers[2].chunks_mut(SCALES_A_BLOCK))
    {
        let largest = scales.iter().copied().fold(0.0, nan_max);
        second.push(largest);
        for (scale, code) in scales.iter_mut().zip(codes) {
            let share = ((*scale - OFFSET) / largest).clamp(0.0, 1.0);
            // A NaN becomes code 0, and stays in `largest`.
            *code = (share * 255.0) as u8;
            *scale = table[usize::from(*code)] * largest + OFFSET;
        }
    }
    narrow(&second, DType::F32, buffers[3])?;
    narrow(&table, DType::F32, buffers[4])?;
    narrow(&[OFFSET], DType::F32, buffers[5])
}
