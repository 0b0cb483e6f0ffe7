//! Decoding in plain loops.

use super::{Rounding, Run};

pub(super) fn decode_f32(run: Run<'_>, mut out: &mut [f32]) {
    for (piece, scale, count) in run.pieces(out.len()) {
        let (values, rest) = out.split_at_mut(count);
        let table = table(run, scale);
        decode(piece, &table, values);
        out = rest;
    }
}

pub(super) fn decode_bf16(run: Run<'_>, mut out: &mut [u16]) {
    for (piece, scale, count) in run.pieces(out.len()) {
        let (values, rest) = out.split_at_mut(count);
        let table = table(run, scale).map(|value| (value.to_bits() >> 16) as u16);
        decode(piece, &table, values);
        out = rest;
    }
}

/// Decodes elements of one block by its table.
pub(super) fn decode<T: Copy>(piece: Run<'_>, table: &[T; 16], values: &mut [T]) {
    let (first_shift, second_shift) = if piece.high_first { (4, 0) } else { (0, 4) };
    let value = |byte: u8, shift: u32| table[usize::from((byte >> shift) & 15)];
    let (lead, values) = values.split_at_mut(usize::from(piece.starts_second).min(values.len()));
    if let [lead] = lead {
        *lead = value(piece.codes[0], second_shift);
    }
    let codes = &piece.codes[usize::from(piece.starts_second)..];
    let (pairs, tail) = values.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(codes) {
        *pair = [value(*byte, first_shift), value(*byte, second_shift)];
    }
    if let [tail] = tail {
        *tail = value(codes[pairs.len()], first_shift);
    }
}

/// The 16 values of a block.
pub(super) fn table(run: Run<'_>, scale: f32) -> [f32; 16] {
    run.codebook.map(|value| round(value * scale, run.rounding))
}

fn round(value: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::F32 => value,
        Rounding::Bf16 => half::bf16::from_f32(value).to_f32(),
        Rounding::F16 => half::f16::from_f32(value).to_f32(),
    }
}
