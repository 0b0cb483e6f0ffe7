//! Rows of a factor, interleaved for the tile kernels.

use crate::{InstructionSet, Operand};

/// Tokens that a tile kernel takes at once: with [`PANEL_LANES`] outputs each, the sums fill the vector registers.
pub const TOKEN_LANES: usize = 12;

/// Weight rows that a tile kernel takes at once: two vectors of 512 bits.
pub const PANEL_LANES: usize = 32;

/// 64 bytes on a boundary of 64, so that no vector crosses a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

// SAFETY: an array of integers without padding (64 bytes, aligned to 64).
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; any bit pattern is valid.
unsafe impl bytemuck::Pod for Line {}

/// Rows in groups of `lanes`; in a group, unit after unit, and in a unit, row after row.
pub struct Interleaved {
    operand: Operand,
    lanes: usize,
    rows: usize,
    units: usize,
    data: Vec<Line>,
}

impl Interleaved {
    /// No rows yet, in groups of [`TOKEN_LANES`].
    pub fn tokens(operand: Operand) -> Self {
        Self::new(operand, TOKEN_LANES)
    }

    /// No rows yet, in groups of [`PANEL_LANES`].
    pub fn panel(operand: Operand) -> Self {
        Self::new(operand, PANEL_LANES)
    }

    fn new(operand: Operand, lanes: usize) -> Self {
        Self {
            operand,
            lanes,
            rows: 0,
            units: 0,
            data: Vec::new(),
        }
    }

    /// Element type.
    pub fn operand(&self) -> Operand {
        self.operand
    }

    /// Rows that are held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// Rows of a group.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// The units of a group of rows.
    pub(crate) fn group(&self, index: usize) -> &[u32] {
        let size = self.units * self.lanes;
        &bytemuck::cast_slice::<Line, u32>(&self.data)[index * size..(index + 1) * size]
    }

    /// Makes room for `rows` rows of `cols` elements, whose units are then written group by group.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        self.rows = rows;
        self.units = self.operand.units(cols);
        let units = rows.div_ceil(self.lanes) * self.lanes * self.units;
        // Never shrinks: one scratch serves panels of many sizes.
        let lines = units.div_ceil(16);
        if self.data.len() < lines {
            self.data.resize(lines, Line([0; 16]));
        }
    }

    /// The groups, each with the number of its first row, to be filled by [`fill`].
    pub fn groups_mut(&mut self) -> impl Iterator<Item = (usize, &mut [u32])> {
        let (lanes, size) = (self.lanes, self.units * self.lanes);
        let used = self.rows.div_ceil(lanes) * size;
        let units = &mut bytemuck::cast_slice_mut::<Line, u32>(&mut self.data)[..used];
        units
            .chunks_exact_mut(size.max(1))
            .enumerate()
            .map(move |(index, group)| (index * lanes, group))
    }
}

/// Interleaves rows of bytes into a group. `rows` holds `count` rows of `row_bytes` bytes each; lanes past the last row
/// and bytes past the end of a row become zero. Every unit is combined with `flip` by exclusive or: `0x8080_8080` adds
/// 128 to signed bytes.
///
/// # Panics
/// When the group is no whole number of units of `lanes` lanes, or too small for the rows, or `rows` is too short.
pub fn fill(set: InstructionSet, group: &mut [u32], lanes: usize, rows: &[u8], row_bytes: usize, flip: u32) {
    let units = group.len() / lanes;
    let count = rows.len().checked_div(row_bytes).unwrap_or(0);
    assert!(
        group.len() == units * lanes && count <= lanes && row_bytes.div_ceil(4) == units,
        "{count} rows of {row_bytes} bytes in {units} units of {lanes} lanes"
    );
    #[cfg(target_arch = "x86_64")]
    let done = if set >= InstructionSet::Avx512 {
        assert!(set.is_available());
        // SAFETY: the instructions are there (asserted); the sizes were checked above.
        unsafe { avx512::fill(group, lanes, rows, row_bytes, flip) }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = {
        let _ = set;
        0
    };
    fill_from(group, lanes, rows, row_bytes, flip, done);
}

/// Writes the units from `first` on.
fn fill_from(group: &mut [u32], lanes: usize, rows: &[u8], row_bytes: usize, flip: u32, first: usize) {
    let group = &mut group[first * lanes..];
    for lane in 0..lanes {
        let targets = group.iter_mut().skip(lane).step_by(lanes);
        let row = rows.get(lane * row_bytes..(lane + 1) * row_bytes).unwrap_or(&[]);
        let (words, tail) = row.get(first * 4..).unwrap_or(&[]).as_chunks::<4>();
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        // A row's words, its tail filled up with zeros, and zeros for a lane without a row.
        let words = words.iter().chain([&last]).chain(std::iter::repeat(&[0; 4]));
        for (target, word) in targets.zip(words) {
            *target = u32::from_le_bytes(*word) ^ flip;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_set1_epi32, _mm512_shuffle_i64x2,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        _mm512_xor_si512,
    };

    /// Interleaves rows, 16 units at a time, and says how many units it wrote.
    ///
    /// # Safety
    /// The processor has AVX-512 F; `rows` holds whole rows of `row_bytes` bytes, at most `lanes`, and `group` the
    /// `row_bytes / 4` units of `lanes` lanes.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fill(
        group: &mut [u32],
        lanes: usize,
        rows: &[u8],
        row_bytes: usize,
        flip: u32,
    ) -> usize {
        let flip = _mm512_set1_epi32(flip as i32);
        let steps = row_bytes / 64;
        for step in 0..steps {
            for first in (0..lanes).step_by(16) {
                let mut block = [_mm512_set1_epi32(0); 16];
                let rows = rows.chunks_exact(row_bytes).skip(first);
                for (row, value) in rows.zip(&mut block) {
                    // SAFETY: 64 bytes at `step · 64` lie in the row, as step < row_bytes / 64.
                    *value = unsafe { _mm512_loadu_si512(row.as_ptr().add(step * 64).cast()) };
                }
                let mask = (0xffff_u32 >> (16 - (lanes - first).min(16))) as u16;
                for (unit, value) in transpose(&block).into_iter().enumerate() {
                    // SAFETY: unit `step · 16 + unit` < row_bytes / 4 has `lanes` lanes in the group; the mask lets
                    // through those from `first` on.
                    unsafe {
                        _mm512_mask_storeu_epi32(
                            group.as_mut_ptr().add((step * 16 + unit) * lanes + first).cast(),
                            mask,
                            _mm512_xor_si512(value, flip),
                        );
                    }
                }
            }
        }
        steps * 16
    }

    /// Transposes 16 x 16 words.
    #[target_feature(enable = "avx512f")]
    fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
        let zero = _mm512_set1_epi32(0);
        let (mut a, mut b) = ([zero; 16], [zero; 16]);
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // In each quarter of 128 bits, b[4 g + c] holds column c of the quarter for the rows 4 g .. 4 g + 4.
        for g in 0..4 {
            b[4 * g] = _mm512_unpacklo_epi64(a[4 * g], a[4 * g + 2]);
            b[4 * g + 1] = _mm512_unpackhi_epi64(a[4 * g], a[4 * g + 2]);
            b[4 * g + 2] = _mm512_unpacklo_epi64(a[4 * g + 1], a[4 * g + 3]);
            b[4 * g + 3] = _mm512_unpackhi_epi64(a[4 * g + 1], a[4 * g + 3]);
        }
        let mut out = [zero; 16];
        for c in 0..4 {
            let (r0, r1, r2, r3) = (b[c], b[4 + c], b[8 + c], b[12 + c]);
            // Quarters 0 and 1 of two groups of rows, then quarters 2 and 3.
            let low01 = _mm512_shuffle_i64x2::<0x44>(r0, r1);
            let high01 = _mm512_shuffle_i64x2::<0xee>(r0, r1);
            let low23 = _mm512_shuffle_i64x2::<0x44>(r2, r3);
            let high23 = _mm512_shuffle_i64x2::<0xee>(r2, r3);
            out[c] = _mm512_shuffle_i64x2::<0x88>(low01, low23);
            out[4 + c] = _mm512_shuffle_i64x2::<0xdd>(low01, low23);
            out[8 + c] = _mm512_shuffle_i64x2::<0x88>(high01, high23);
            out[12 + c] = _mm512_shuffle_i64x2::<0xdd>(high01, high23);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_interleaves_alike() {
        for row_bytes in [1_usize, 3, 4, 64, 66, 130, 256] {
            for (lanes, count) in [
                (PANEL_LANES, 32),
                (PANEL_LANES, 5),
                (TOKEN_LANES, 12),
                (TOKEN_LANES, 1),
            ] {
                let rows: Vec<u8> = (0..count * row_bytes).map(|i| (i * 37 % 251) as u8).collect();
                let units = row_bytes.div_ceil(4);
                for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
                    let mut group = vec![0xdead_beef; units * lanes];
                    fill(set, &mut group, lanes, &rows, row_bytes, 0x8080_8080);
                    for (index, word) in group.iter().enumerate() {
                        let (unit, lane) = (index / lanes, index % lanes);
                        let expected = [0, 1, 2, 3].map(|byte| {
                            let at = unit * 4 + byte;
                            let value = if lane < count && at < row_bytes {
                                rows[lane * row_bytes + at]
                            } else {
                                0
                            };
                            value ^ 0x80
                        });
                        assert_eq!(
                            word.to_le_bytes(),
                            expected,
                            "{set} {row_bytes} unit {unit} lane {lane}"
                        );
                    }
                }
            }
        }
    }
}
