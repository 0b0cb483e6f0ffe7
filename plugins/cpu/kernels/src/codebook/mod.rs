//! 4-bit codes into a table of 16 values, scaled a block at a time: decoding, and products with few tokens.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use crate::{InstructionSet, matrix::Block};

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

    /// The run without its first elements, an even number of them.
    fn skip(self, elements: usize) -> Self {
        let at = self.before + elements;
        Self {
            codes: &self.codes[elements / 2..],
            before: at % self.block,
            scales: &self.scales[at / self.block..],
            ..self
        }
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
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { avx2::decode_f32(run, out) },
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

/// Elements of half a step where blocks are whole halves.
const HALF: usize = 64;

/// Parts of such a step: as many as there are codes in a word of 16 bits, or of 32.
const SHORT_PARTS: usize = 4;
const LONG_PARTS: usize = 8;

/// Tokens that [`dots`] takes at most.
pub const DOT_TOKENS: usize = 4;

/// Tokens laid out for [`dots`].
#[derive(Debug)]
pub struct Tokens {
    form: Form,
    count: usize,
    cols: usize,
}

#[derive(Debug)]
enum Form {
    /// In each [`DOT_STEP`] elements the even ones come first, then the odd ones.
    Pairs(Vec<f32>),
    /// As bits of bf16, in [`SHORT_PARTS`]: in each two [`HALF`]s every fourth from the first on comes first, then those
    /// from the second on, and so on. Filled up with zeros.
    Short(Vec<Line>),
    /// As f32, in [`LONG_PARTS`].
    Long(Vec<Line>),
}

/// What a load takes, so that none straddles two lines of the cache: 16 values, or 32 of bf16.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u32; 16]);

impl Tokens {
    /// Lays out tokens of `cols` elements for rows of blocks of that size which are rounded so. For [`Rounding::Bf16`]
    /// the values of `x` are bf16 numbers.
    ///
    /// # Panics
    /// When [`can_dot`] says no, or `x` is no whole number of tokens.
    pub fn new(set: InstructionSet, rounding: Rounding, block: usize, x: &[f32], cols: usize) -> Self {
        assert!(
            can_dot(set, cols, block) && x.len().is_multiple_of(cols),
            "{} elements as tokens of {cols}, blocks of {block}, with {set}",
            x.len()
        );
        let is_wide =
            cols.is_multiple_of(HALF) && block.is_multiple_of(HALF) && (block / HALF).is_power_of_two();
        let form = match rounding {
            _ if !is_wide => Form::Pairs(pairs(x)),
            Rounding::Bf16 if set >= InstructionSet::Avx512Dot => Form::Short(parts::<SHORT_PARTS>(x, cols)),
            _ => Form::Long(parts::<LONG_PARTS>(x, cols)),
        };
        Self {
            form,
            count: x.len() / cols,
            cols,
        }
    }

    /// Number of tokens.
    pub fn count(&self) -> usize {
        self.count
    }
}

fn pairs(x: &[f32]) -> Vec<f32> {
    let mut pairs = Vec::with_capacity(x.len());
    for step in x.as_chunks::<DOT_STEP>().0 {
        pairs.extend(step.iter().step_by(2));
        pairs.extend(step.iter().skip(1).step_by(2));
    }
    pairs
}

/// `[tokens][steps][PARTS]` lines: element `PARTS · i + j` of a step is the `i`-th of its part `j`.
fn parts<const PARTS: usize>(x: &[f32], cols: usize) -> Vec<Line> {
    const STEP: usize = 2 * HALF;
    let steps = cols.div_ceil(STEP);
    let mut parts = vec![Line([0; 16]); x.len() / cols * steps * PARTS];
    for (x, parts) in x.chunks_exact(cols).zip(parts.chunks_exact_mut(steps * PARTS)) {
        for (x, step) in x.chunks(STEP).zip(parts.as_chunks_mut::<PARTS>().0) {
            for (index, values) in x.as_chunks::<PARTS>().0.iter().enumerate() {
                for (part, value) in step.iter_mut().zip(values) {
                    if PARTS == SHORT_PARTS {
                        bytemuck::cast_slice_mut(&mut part.0)[index] = (value.to_bits() >> 16) as u16;
                    } else {
                        part.0[index] = value.to_bits();
                    }
                }
            }
        }
    }
    parts
}

/// Whether [`dots`] can take runs of this shape with this set.
pub fn can_dot(set: InstructionSet, cols: usize, block: usize) -> bool {
    set >= InstructionSet::Avx512
        && cols > 0
        && cols.is_multiple_of(DOT_STEP)
        && block.is_multiple_of(DOT_STEP)
}

/// `out = tokens · rowsᵀ` for rows that lie one after the other in a run, with up to [`DOT_TOKENS`] tokens laid out for the
/// same set, rounding and size of block.
///
/// # Panics
/// When the run begins within a step, or codes, scales, tokens or `out` do not fit.
pub fn dots(set: InstructionSet, run: Run<'_>, tokens: &Tokens, out: &mut Block<'_>) {
    let (cols, rows) = (tokens.cols, out.cols());
    run.check(rows * cols);
    assert!(
        can_dot(set, cols, run.block)
            && set.is_available()
            && !run.starts_second
            && tokens.count <= DOT_TOKENS
            && out.rows() == tokens.count,
        "{} tokens of {cols} columns, blocks of {}, into {} x {rows} with {set}",
        tokens.count,
        run.block,
        out.rows()
    );
    if tokens.count == 0 || rows == 0 {
        return;
    }
    let (lines, is_short) = match &tokens.form {
        Form::Pairs(values) => return dots_of_pairs(run, values, tokens, out),
        Form::Short(lines) => (lines, true),
        Form::Long(lines) => (lines, false),
    };
    assert!(
        run.block.is_multiple_of(HALF)
            && (run.block / HALF).is_power_of_two()
            && run.before.is_multiple_of(HALF)
            && is_short == (run.rounding == Rounding::Bf16 && set >= InstructionSet::Avx512Dot),
        "tokens laid out for {set}, {:?} and element {} of blocks of {}",
        run.rounding,
        run.before,
        run.block
    );
    #[cfg(target_arch = "x86_64")]
    {
        let wide = avx512::products::Wide {
            run,
            tokens: lines,
            cols,
            rows,
        };
        let (data, stride) = out.corner(0, 0);
        // SAFETY: the instructions are there, and codes, scales, tokens and `out` suffice, as was asserted.
        unsafe {
            macro_rules! with_tokens {
                ($dots:ident) => {
                    match tokens.count {
                        1 => avx512::products::$dots::<1>(wide, data, stride),
                        2 => avx512::products::$dots::<2>(wide, data, stride),
                        3 => avx512::products::$dots::<3>(wide, data, stride),
                        _ => avx512::products::$dots::<DOT_TOKENS>(wide, data, stride),
                    }
                };
            }
            match run.rounding {
                _ if is_short => with_tokens!(dots_in_bf16),
                Rounding::F32 => with_tokens!(dots_of_scaled),
                _ => with_tokens!(dots_in_f32),
            }
        }
    }
}

fn dots_of_pairs(run: Run<'_>, values: &[f32], tokens: &Tokens, out: &mut Block<'_>) {
    assert!(
        run.before.is_multiple_of(DOT_STEP),
        "a run from element {} of its block",
        run.before
    );
    let cols = tokens.cols;
    for row in 0..out.cols() {
        let run = run.skip(row * cols);
        let mut sums = [0.0; DOT_TOKENS];
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `dots` saw that the instructions are there, and that codes, scales and tokens suffice.
        unsafe {
            match tokens.count {
                1 => avx512::dot::<1>(run, values, cols, &mut sums),
                2 => avx512::dot::<2>(run, values, cols, &mut sums),
                3 => avx512::dot::<3>(run, values, cols, &mut sums),
                _ => avx512::dot::<DOT_TOKENS>(run, values, cols, &mut sums),
            }
        }
        for (token, sum) in sums[..tokens.count].iter().enumerate() {
            out.row(token)[row] = *sum;
        }
    }
}
