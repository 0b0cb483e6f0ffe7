//! 4-bit codes into a table of 16 values, scaled a block at a time: decoding, and products with few tokens.

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

/// Elements of half a step of the product in bf16.
const HALF: usize = 64;

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
    /// As bits of bf16; in each two [`HALF`]s every fourth from the first on comes first, then those from the second on,
    /// and so on. Filled up with zeros.
    Quads(Vec<Line>),
}

/// Values that a load takes, so that none straddles two lines of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u16; 32]);

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
        let is_short = rounding == Rounding::Bf16
            && set >= InstructionSet::Avx512Dot
            && cols.is_multiple_of(HALF)
            && block.is_multiple_of(HALF)
            && (block / HALF).is_power_of_two();
        let form = if is_short {
            Form::Quads(quads(x, cols))
        } else {
            Form::Pairs(pairs(x))
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

fn quads(x: &[f32], cols: usize) -> Vec<Line> {
    const STEP: usize = 2 * HALF;
    let steps = cols.div_ceil(STEP);
    let mut quads = vec![Line([0; 32]); x.len() / cols * steps * 4];
    for (x, quads) in x.chunks_exact(cols).zip(quads.chunks_exact_mut(steps * 4)) {
        for (x, step) in x.chunks(STEP).zip(quads.as_chunks_mut::<4>().0) {
            for (index, four) in x.as_chunks::<4>().0.iter().enumerate() {
                for (part, value) in four.iter().enumerate() {
                    step[part].0[index] = (value.to_bits() >> 16) as u16;
                }
            }
        }
    }
    quads
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
    match &tokens.form {
        Form::Pairs(values) => dots_of_pairs(run, values, tokens, out),
        Form::Quads(values) => {
            assert!(
                set >= InstructionSet::Avx512Dot
                    && run.rounding == Rounding::Bf16
                    && run.block.is_multiple_of(HALF)
                    && (run.block / HALF).is_power_of_two()
                    && run.before.is_multiple_of(HALF),
                "tokens in bf16 for {set}, {:?} and element {} of blocks of {}",
                run.rounding,
                run.before,
                run.block
            );
            #[cfg(target_arch = "x86_64")]
            {
                let quads = avx512::Quads {
                    run,
                    tokens: values,
                    cols,
                    rows,
                };
                let (data, stride) = out.corner(0, 0);
                // SAFETY: the instructions are there, and codes, scales, tokens and `out` suffice, as was asserted.
                unsafe {
                    match tokens.count {
                        1 => avx512::dots::<1>(quads, data, stride),
                        2 => avx512::dots::<2>(quads, data, stride),
                        3 => avx512::dots::<3>(quads, data, stride),
                        _ => avx512::dots::<DOT_TOKENS>(quads, data, stride),
                    }
                }
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
