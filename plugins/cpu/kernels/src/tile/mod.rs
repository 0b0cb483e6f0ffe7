//! Products of interleaved tokens with a panel of interleaved weight rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{
    InstructionSet, Interleaved, Operand,
    interleaved::{PANEL_LANES, TOKEN_LANES},
    matrix::Block,
};

/// Units of the inner dimension that are taken at a time: the weights of one step, `32 lanes · 256 units · 4 bytes`,
/// stay in the first-level cache while the tokens pass by.
const DEPTH: usize = 256;

/// One call of a tile kernel: `out[token][lane] (+)= Σ tokens[unit][token] · weights[unit][lane]`.
#[derive(Clone, Copy)]
struct Tile<'a> {
    /// `[units][TOKEN_LANES]`
    tokens: &'a [u32],
    /// `[units][PANEL_LANES]`
    weights: &'a [u32],
    /// Tokens whose sums are written, `1 ..= TOKEN_LANES`.
    count: usize,
    /// Lanes whose sums are written, `1 ..= PANEL_LANES`.
    lanes: usize,
    /// Whether the sums are added to what is there.
    add: bool,
}

/// Where the sums of a tile go: `count` rows of `lanes` sums, `stride` elements apart.
#[derive(Clone, Copy)]
struct Sums<T> {
    data: *mut T,
    stride: usize,
}

/// Type of a sum.
pub trait Sum: Copy + Default + Send + Sync + 'static + sealed::Sealed {
    /// Whether sums are whole numbers.
    const IS_INTEGER: bool;
}

mod sealed {
    use super::{InstructionSet, Operand, Sums, Tile};

    pub trait Sealed: Sized {
        /// # Safety
        /// `sums` has room for the tile, and nobody else uses that room.
        #[expect(private_interfaces, reason = "nobody outside can name or call it")]
        unsafe fn run(set: InstructionSet, operand: Operand, tile: Tile<'_>, sums: Sums<Self>);
    }
}

impl Sum for f32 {
    const IS_INTEGER: bool = false;
}

impl Sum for i32 {
    const IS_INTEGER: bool = true;
}

impl sealed::Sealed for f32 {
    #[expect(private_interfaces, reason = "nobody outside can name or call it")]
    unsafe fn run(set: InstructionSet, operand: Operand, tile: Tile<'_>, sums: Sums<Self>) {
        // SAFETY: the caller's; `multiply` asserted that the processor has `set`.
        unsafe {
            match (operand, set) {
                #[cfg(target_arch = "x86_64")]
                (Operand::Bf16, InstructionSet::Avx512Dot) => avx512::bf16(tile, sums),
                #[cfg(target_arch = "x86_64")]
                (Operand::F32, InstructionSet::Avx512 | InstructionSet::Avx512Dot) => avx512::f32(tile, sums),
                #[cfg(target_arch = "x86_64")]
                (Operand::F32, InstructionSet::Avx2) => avx2::f32(tile, sums),
                (Operand::F32, _) => portable::f32(tile, sums),
                (Operand::Bf16 | Operand::I16 | Operand::I8, _) => {
                    panic!("no sums of {operand:?} in f32 with {set}")
                }
            }
        }
    }
}

impl sealed::Sealed for i32 {
    #[expect(private_interfaces, reason = "nobody outside can name or call it")]
    unsafe fn run(set: InstructionSet, operand: Operand, tile: Tile<'_>, sums: Sums<Self>) {
        // SAFETY: the caller's; `multiply` asserted that the processor has `set`.
        unsafe {
            match (operand, set) {
                #[cfg(target_arch = "x86_64")]
                (Operand::I8, InstructionSet::Avx512Dot) => avx512::i8(tile, sums),
                #[cfg(target_arch = "x86_64")]
                (Operand::I16, InstructionSet::Avx512 | InstructionSet::Avx512Dot) => avx512::i16(tile, sums),
                #[cfg(target_arch = "x86_64")]
                (Operand::I16, InstructionSet::Avx2) => avx2::i16(tile, sums),
                (Operand::I16, _) => portable::i16(tile, sums),
                (Operand::F32 | Operand::Bf16 | Operand::I8, _) => {
                    panic!("no sums of {operand:?} in i32 with {set}")
                }
            }
        }
    }
}

/// Some rows of a panel, and some units of them.
#[derive(Clone)]
pub struct PanelPart<'a> {
    /// The panel.
    pub panel: &'a Interleaved,
    /// Weight rows; begins at a multiple of [`PANEL_LANES`].
    pub rows: Range<usize>,
    /// Units of the inner dimension.
    pub units: Range<usize>,
}

impl<'a> From<&'a Interleaved> for PanelPart<'a> {
    fn from(panel: &'a Interleaved) -> Self {
        Self {
            panel,
            rows: 0..panel.rows(),
            units: 0..panel.units(),
        }
    }
}

/// `out = tokens · panelᵀ` for the tokens `tokens`, which begin at a multiple of [`TOKEN_LANES`].
///
/// For [`Operand::I8`] the panel's bytes are unsigned, 128 too large: the sums are too large by 128 times the sum of the
/// token's codes.
///
/// # Panics
/// When the shapes or operands do not fit, when the operand has no kernel in `set`, or the processor lacks `set`.
pub fn multiply<'a, T: Sum>(
    set: InstructionSet,
    tokens: &Interleaved,
    range: Range<usize>,
    panel: impl Into<PanelPart<'a>>,
    out: &mut Block<'_, T>,
) {
    let PanelPart { panel, rows, units } = panel.into();
    assert!(set.is_available(), "this processor has no {set}");
    assert!(
        tokens.operand() == panel.operand()
            && tokens.units() == units.len()
            && units.end <= panel.units()
            && tokens.lanes() == TOKEN_LANES
            && panel.lanes() == PANEL_LANES
            && range.start.is_multiple_of(TOKEN_LANES)
            && range.end <= tokens.rows()
            && rows.start.is_multiple_of(PANEL_LANES)
            && rows.end <= panel.rows()
            && (out.rows(), out.cols()) == (range.len(), rows.len()),
        "tokens {range:?} of {} with {} units times weight rows {rows:?} of {} and units {units:?} of {} into {} x {}",
        tokens.rows(),
        tokens.units(),
        panel.rows(),
        panel.units(),
        out.rows(),
        out.cols()
    );
    if units.is_empty() {
        for row in 0..out.rows() {
            out.row(row).fill(T::default());
        }
    }
    for depth in (0..units.len()).step_by(DEPTH) {
        let end = (depth + DEPTH).min(units.len());
        for first_row in rows.clone().step_by(PANEL_LANES) {
            let weights = &panel.group(first_row / PANEL_LANES)
                [(units.start + depth) * PANEL_LANES..(units.start + end) * PANEL_LANES];
            let lanes = PANEL_LANES.min(rows.end - first_row);
            for first in range.clone().step_by(TOKEN_LANES) {
                let tokens = &tokens.group(first / TOKEN_LANES)[depth * TOKEN_LANES..end * TOKEN_LANES];
                let tile = Tile {
                    tokens,
                    weights,
                    count: TOKEN_LANES.min(range.end - first),
                    lanes,
                    add: depth > 0,
                };
                let (data, stride) = out.corner(first - range.start, first_row - rows.start);
                // SAFETY: the tile's rows and columns lie in `out`, which is borrowed exclusively.
                unsafe { T::run(set, panel.operand(), tile, Sums { data, stride }) };
            }
        }
    }
}
