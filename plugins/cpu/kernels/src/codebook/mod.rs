//! 4-bit codes into a table of 16 values, scaled a block at a time: decoding, and products with few tokens.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use crate::InstructionSet;

/// To what a decoded value, `codebook[code] · scale` in f32, is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// It stays as it is.
    F32,
    /// Nearest bf16, even at ties.
    Bf16,
    /// Nearest f16, even at ties.
    F16,
}

/// Consecutive elements of a matrix of 4-bit codes.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Codes, from the byte that holds the first element on.
    pub codes: &'a [u8],
    /// Whether the first element is the second of its byte.
    pub starts_second: bool,
    /// Whether the first element of a byte is its upper nibble.
    pub high_first: bool,
    /// The value of each code.
    pub codebook: &'a [f32; 16],
    /// Elements a block.
    pub block: usize,
    /// Elements of the first block that lie before the run.
    pub before: usize,
    /// Scale of each block from the first on.
    pub scales: &'a [f32],
    /// What values are rounded to.
    pub rounding: Rounding,
}

impl<'a> Run<'a> {
    /// # Panics
    /// When codes or scales are too few for `length` elements, or a block has no elements.
    fn check(&self, length: usize) {
        let bytes = (usize::from(self.starts_second) + length).div_ceil(2);
        assert!(
            self.block > 0
                && self.before < self.block
                && bytes <= self.codes.len()
                && (self.before + length).div_ceil(self.block) <= self.scales.len(),
            "{length} elements, {} into blocks of {}: {} bytes of codes, {} scales",
            self.before,
            self.block,
            self.codes.len(),
            self.scales.len()
        );
    }

    /// The pieces of the run that share a scale: each as the run of one block, with its length.
    fn pieces(self, length: usize) -> impl Iterator<Item = (Self, f32, usize)> + 'a {
        let mut at = 0;
        let mut scales = self.scales.iter();
        std::iter::from_fn(move || {
            if at == length {
                return None;
            }
            let scale = *scales.next()?;
            let left = if at == 0 {
                self.block - self.before
            } else {
                self.block
            };
            let count = left.min(length - at);
            let nibble = usize::from(self.starts_second) + at;
            at += count;
            let piece = Self {
                codes: &self.codes[nibble / 2..],
                starts_second: nibble % 2 == 1,
                ..self
            };
            Some((piece, scale, count))
        })
    }
}

/// Decodes as many elements as `out` has room for, as f32.
///
/// # Panics
/// When codes or scales are too few, or the processor lacks `set`.
pub fn decode_f32(set: InstructionSet, run: Run<'_>, out: &mut [f32]) {
    run.check(out.len());
    assert!(set.is_available(), "this processor has no {set}");
    match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instructions are there, and `check` saw that codes and scales suffice.
        InstructionSet::Avx512 | InstructionSet::Avx512Dot => unsafe { avx512::decode_f32(run, out) },
        _ => portable::decode_f32(run, out),
    }
}

/// Decodes as many elements as `out` has room for, as the bits of bf16, whatever the run's rounding says.
///
/// # Panics
/// When codes or scales are too few, or the processor lacks `set`.
pub fn decode_bf16(set: InstructionSet, run: Run<'_>, out: &mut [u16]) {
    run.check(out.len());
    assert!(set.is_available(), "this processor has no {set}");
    let run = Run {
        rounding: Rounding::Bf16,
        ..run
    };
    match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instructions are there, and `check` saw that codes and scales suffice.
        InstructionSet::Avx512 | InstructionSet::Avx512Dot => unsafe { avx512::decode_bf16(run, out) },
        _ => portable::decode_bf16(run, out),
    }
}

/// Elements that the product of a run takes at a time: a whole block's worth of vectors.
pub const DOT_STEP: usize = 32;

/// Tokens that [`dot`] takes at most.
pub const DOT_TOKENS: usize = 4;

/// Tokens laid out for [`dot`].
#[derive(Debug)]
pub enum Tokens {
    /// In each [`DOT_STEP`] elements the even ones come first, then the odd ones.
    Pairs(Vec<f32>),
    /// As bits of bf16, in their order.
    Bf16(Vec<u16>),
}

impl Tokens {
    /// Lays out `x`, for runs that are rounded so. For [`Rounding::Bf16`] the values of `x` are bf16 numbers.
    ///
    /// # Panics
    /// When `x` is no whole number of steps.
    pub fn new(set: InstructionSet, rounding: Rounding, x: &[f32]) -> Self {
        let (steps, rest) = x.as_chunks::<DOT_STEP>();
        assert!(rest.is_empty(), "{} elements in steps of {DOT_STEP}", x.len());
        if rounding == Rounding::Bf16 && set >= InstructionSet::Avx512Dot {
            return Self::Bf16(x.iter().map(|value| (value.to_bits() >> 16) as u16).collect());
        }
        let mut pairs = Vec::with_capacity(x.len());
        for step in steps {
            pairs.extend(step.iter().step_by(2));
            pairs.extend(step.iter().skip(1).step_by(2));
        }
        Self::Pairs(pairs)
    }

    fn len(&self) -> usize {
        match self {
            Self::Pairs(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// Whether [`dot`] can take runs of this shape with this set.
pub fn can_dot(set: InstructionSet, cols: usize, block: usize) -> bool {
    set >= InstructionSet::Avx512 && cols.is_multiple_of(DOT_STEP) && block.is_multiple_of(DOT_STEP)
}

/// Sums of products of a run with up to [`DOT_TOKENS`] tokens of `cols` elements each, laid out for the same set and
/// rounding.
///
/// # Panics
/// When [`can_dot`] says no, the run begins within a step, or codes, scales or tokens do not fit.
pub fn dot(set: InstructionSet, run: Run<'_>, tokens: &Tokens, cols: usize, sums: &mut [f32]) {
    run.check(cols);
    assert!(
        can_dot(set, cols, run.block)
            && set.is_available()
            && run.before.is_multiple_of(DOT_STEP)
            && !run.starts_second
            && sums.len() <= DOT_TOKENS
            && tokens.len() == sums.len() * cols,
        "{} values of {} tokens with {cols} columns from element {} of blocks of {}",
        tokens.len(),
        sums.len(),
        run.before,
        run.block
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instructions are there, and codes, scales and tokens suffice, as was just asserted.
    unsafe {
        match (tokens, sums.len()) {
            (_, 0) => {}
            (Tokens::Pairs(tokens), 1) => avx512::dot::<1>(run, tokens, cols, sums),
            (Tokens::Pairs(tokens), 2) => avx512::dot::<2>(run, tokens, cols, sums),
            (Tokens::Pairs(tokens), 3) => avx512::dot::<3>(run, tokens, cols, sums),
            (Tokens::Pairs(tokens), _) => avx512::dot::<DOT_TOKENS>(run, tokens, cols, sums),
            (Tokens::Bf16(tokens), count) => {
                assert!(
                    set >= InstructionSet::Avx512Dot && run.rounding == Rounding::Bf16,
                    "tokens in bf16 for {set} and {:?}",
                    run.rounding
                );
                match count {
                    1 => avx512::dot_short::<1>(run, tokens, cols, sums),
                    2 => avx512::dot_short::<2>(run, tokens, cols, sums),
                    3 => avx512::dot_short::<3>(run, tokens, cols, sums),
                    _ => avx512::dot_short::<DOT_TOKENS>(run, tokens, cols, sums),
                }
            }
        }
    }
}
