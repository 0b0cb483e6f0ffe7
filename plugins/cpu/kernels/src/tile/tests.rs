//! Every kernel of every set that this processor has, against plain sums in f64 or i64.

use super::*;
use crate::{fill, matrix::SharedMatrix};

/// A small generator; the numbers need only be varied.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn float(&mut self) -> f32 {
        self.next() as f32 / (1_u32 << 30) as f32 - 1.0
    }
}

fn interleave(
    set: InstructionSet,
    mut to: Interleaved,
    rows: &[u8],
    row_bytes: usize,
    flip: u32,
) -> Interleaved {
    let (lanes, count) = (to.lanes(), rows.len() / row_bytes);
    to.resize(count, row_bytes / to.operand().size());
    for (first, group) in to.groups_mut() {
        let last = (first + lanes).min(count);
        fill(
            set,
            group,
            lanes,
            &rows[first * row_bytes..last * row_bytes],
            row_bytes,
            flip,
        );
    }
    to
}

/// The product of two row-major factors given as bytes.
fn product<T: Sum>(
    set: InstructionSet,
    operand: Operand,
    (tokens, weights): (&[u8], &[u8]),
    cols: usize,
    range: std::ops::Range<usize>,
) -> Vec<T> {
    let row_bytes = cols * operand.size();
    let flip = if operand == Operand::I8 { 0x8080_8080 } else { 0 };
    let tokens = interleave(set, Interleaved::tokens(operand), tokens, row_bytes, 0);
    let panel = interleave(set, Interleaved::panel(operand), weights, row_bytes, flip);
    let mut out = vec![T::default(); range.len() * (panel.rows() + 3)];
    let (rows, columns) = (range.len(), panel.rows());
    {
        let shared = SharedMatrix::new(&mut out, rows, columns + 3);
        // SAFETY: the only block.
        let mut block = unsafe { shared.block(0..rows, 2..2 + columns) };
        multiply(set, &tokens, range, &panel, &mut block);
    }
    let (edge, inner): (Vec<_>, Vec<_>) = out.iter().enumerate().partition(|(index, _)| {
        let column = index % (columns + 3);
        column < 2 || column == columns + 2
    });
    drop(edge);
    inner.into_iter().map(|(_, value)| *value).collect()
}

const SHAPES: [(usize, usize, usize); 7] = [
    (1, 1, 1),
    (5, 31, 7),
    (12, 32, 64),
    (13, 33, 65),
    (25, 64, 513),
    (24, 96, 1100),
    (40, 70, 300),
];

fn sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL.into_iter().filter(|set| set.is_available())
}

#[test]
fn floats() {
    let mut random = Random(1);
    for (tokens, rows, cols) in SHAPES {
        let mut values = |count: usize| -> Vec<f32> {
            // Values of bf16, so that both operands hold them exactly.
            (0..count)
                .map(|_| f32::from_bits(random.float().to_bits() & 0xffff_0000))
                .collect()
        };
        let (x, w) = (values(tokens * cols), values(rows * cols));
        let bytes = |values: &[f32], operand: Operand| -> Vec<u8> {
            let each = values.iter().map(|value| value.to_le_bytes());
            match operand {
                Operand::Bf16 => each.flat_map(|bytes| [bytes[2], bytes[3]]).collect(),
                _ => each.flatten().collect(),
            }
        };
        for set in sets() {
            for operand in [Operand::F32, Operand::for_bf16(set)] {
                let start = if tokens > TOKEN_LANES { TOKEN_LANES } else { 0 };
                let out: Vec<f32> = product(
                    set,
                    operand,
                    (&bytes(&x, operand), &bytes(&w, operand)),
                    cols,
                    start..tokens,
                );
                for (index, value) in out.iter().enumerate() {
                    let (token, row) = (start + index / rows, index % rows);
                    let terms =
                        || (0..cols).map(|k| f64::from(x[token * cols + k]) * f64::from(w[row * cols + k]));
                    let (sum, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                    // Each of up to `cols` additions may lose half a unit of a partial sum.
                    let tolerance = size * cols as f64 * f64::from(f32::EPSILON);
                    assert!(
                        (f64::from(*value) - sum).abs() <= tolerance,
                        "{set} {operand:?} {tokens}x{rows}x{cols} at {token},{row}: {value} for {sum}"
                    );
                }
            }
        }
    }
}

#[test]
fn integers_are_exact() {
    let mut random = Random(2);
    for (tokens, rows, cols) in SHAPES {
        let mut codes =
            |count: usize| -> Vec<i8> { (0..count).map(|_| (random.next() % 255) as i8).collect() };
        let (mut x, mut w) = (codes(tokens * cols), codes(rows * cols));
        // The largest sums that there can be.
        x[..cols].fill(-127);
        w[..cols].fill(-128);
        let bytes = |codes: &[i8], operand: Operand| -> Vec<u8> {
            match operand {
                Operand::I16 => codes
                    .iter()
                    .flat_map(|code| i16::from(*code).to_le_bytes())
                    .collect(),
                _ => codes.iter().map(|code| *code as u8).collect(),
            }
        };
        for set in sets() {
            for operand in [Operand::I16, Operand::for_i8(set)] {
                let out: Vec<i32> = product(
                    set,
                    operand,
                    (&bytes(&x, operand), &bytes(&w, operand)),
                    cols,
                    0..tokens,
                );
                for (index, value) in out.iter().enumerate() {
                    let (token, row) = (index / rows, index % rows);
                    let x = &x[token * cols..(token + 1) * cols];
                    let dot: i32 = (x.iter().zip(&w[row * cols..]))
                        .map(|(x, w)| i32::from(*x) * i32::from(*w))
                        .sum();
                    let excess = if operand == Operand::I8 {
                        128 * x.iter().map(|x| i32::from(*x)).sum::<i32>()
                    } else {
                        0
                    };
                    assert_eq!(
                        *value,
                        dot + excess,
                        "{set} {operand:?} {tokens}x{rows}x{cols} at {token},{row}"
                    );
                }
            }
        }
    }
}
