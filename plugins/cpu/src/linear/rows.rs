//! Rows of a weight as the kernels take them.

use std::ops::Range;

use qbench_cpu_kernels::Operand;
use qbench_sdk::Result;

/// Memory that rows are decoded into; words, so that it can hold any element type.
pub(crate) type Scratch = Vec<u32>;

/// A weight whose rows can be had in the elements of an operand, [`Operand::F32`] or one that holds the values of the
/// precision exactly.
pub(super) trait Rows: Sync {
    /// The rows `rows`, one after the other, little-endian; `scratch` is free to be used for them.
    fn rows<'a>(&'a self, rows: Range<usize>, operand: Operand, scratch: &'a mut Scratch)
    -> Result<&'a [u8]>;
}

/// The first `count` elements of a scratch.
pub(crate) fn elements<T: bytemuck::Pod>(scratch: &mut Scratch, count: usize) -> &mut [T] {
    let words = (count * size_of::<T>()).div_ceil(size_of::<u32>());
    if scratch.len() < words {
        scratch.resize(words, 0);
    }
    &mut bytemuck::cast_slice_mut(scratch)[..count]
}

/// Values of the precision as elements of the operand.
pub(crate) fn encode<'a>(operand: Operand, x: &'a [f32], scratch: &'a mut Scratch) -> &'a [u8] {
    match operand {
        Operand::Bf16 => {
            let short: &mut [u16] = elements(scratch, x.len());
            for (short, value) in short.iter_mut().zip(x) {
                // Exact: the values are bf16 numbers.
                *short = (value.to_bits() >> 16) as u16;
            }
            bytemuck::cast_slice(short)
        }
        _ => bytemuck::cast_slice(x),
    }
}
