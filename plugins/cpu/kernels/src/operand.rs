//! What the tile kernels multiply.

use crate::InstructionSet;

/// Element type of both factors of a product. Elements travel in *units* of 32 bits, the step of one instruction along
/// the inner dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// f32, summed in f32.
    F32,
    /// bf16 pairs, summed in f32 (`vdpbf16ps`: denormals count as zero).
    Bf16,
    /// i16 pairs, summed exactly in i32.
    I16,
    /// Signed bytes, four at a time, summed exactly in i32.
    I8,
}

impl Operand {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::I16 => 2,
            Self::I8 => 1,
        }
    }

    /// Elements of a unit.
    pub fn per_unit(self) -> usize {
        4 / self.size()
    }

    /// Units of a row of `cols` elements; the last is filled up with zeros.
    pub fn units(self, cols: usize) -> usize {
        cols.div_ceil(self.per_unit())
    }

    /// What floats are best multiplied as whose values are all bf16 numbers.
    pub fn for_bf16(set: InstructionSet) -> Self {
        if set >= InstructionSet::Avx512Dot {
            Self::Bf16
        } else {
            Self::F32
        }
    }

    /// What signed bytes are best multiplied as.
    pub fn for_i8(set: InstructionSet) -> Self {
        if set >= InstructionSet::Avx512Dot {
            Self::I8
        } else {
            Self::I16
        }
    }
}
