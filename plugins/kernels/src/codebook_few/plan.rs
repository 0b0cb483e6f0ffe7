//! How a product of few tokens is divided. Which division is fastest was measured on an H200.

// As in `cuda/codebook_few.cu`.
pub(super) const BLOCK: usize = 64;
pub(super) const STEP: usize = 256;
/// Copies of the second level's table.
const COPIES: usize = 8;
/// Steps of which a warp has the codes in shared memory.
const STAGES: usize = 2;

/// The most rows of activations that are worth going over the columns several times, and the most such passes.
const PASSES_TOKENS: usize = 4;
const MOST_PASSES: usize = 8;

/// Steps a multiprocessor from which making the next kernel's table early is worth less than warps.
const LARGE: usize = 64;

/// What there is of a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) multiprocessors: usize,
    /// Bytes of shared memory of a block of threads at most.
    pub(super) shared: usize,
    /// Bytes where two blocks are to fit on a multiprocessor.
    pub(super) half: usize,
}

/// A product, as far as a plan depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) tokens: usize,
    /// Whether scales are coded.
    pub(super) coded: bool,
}

/// How a launch divides the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) warps: usize,
    pub(super) stages: usize,
    /// Steps of columns whose activations lie in shared memory at a time.
    pub(super) pass_steps: usize,
    /// Whether the activations lie apart from the table of pairs.
    pub(super) x_apart: bool,
    /// Bytes of shared memory.
    pub(super) shared: usize,
}

impl Plan {
    /// The plan for such a product; `None` where the activations do not find room, for then another kernel is faster.
    pub(super) fn best(sizes: Sizes, limits: Limits) -> Option<Self> {
        let steps = sizes.rows.div_ceil(16) * (sizes.cols / STEP);
        // Room for a second block: the next product then makes its table and fetches its first codes meanwhile.
        let beside = (sizes.coded || steps < LARGE * limits.multiprocessors)
            .then(|| Self::new(sizes, 8, 1, limits.half))
            .flatten();
        // More warps hide more latency, fewer leave more memory to the activations.
        let alone = if sizes.tokens < 4 {
            [12, 16, 8]
        } else {
            [16, 12, 8]
        };
        let passes = if sizes.tokens <= PASSES_TOKENS {
            MOST_PASSES
        } else {
            1
        };
        beside
            .or_else(|| {
                alone
                    .into_iter()
                    .find_map(|warps| Self::new(sizes, warps, 1, limits.shared))
            })
            .or_else(|| (2..=passes).find_map(|passes| Self::new(sizes, 16, passes, limits.shared)))
    }

    /// A plan with so many warps and passes over the columns, in so many bytes of shared memory.
    fn new(sizes: Sizes, warps: usize, passes: usize, most: usize) -> Option<Self> {
        let Sizes { cols, tokens, .. } = sizes;
        // The table of pairs, and what lies between its rows.
        let (table, between) = if tokens <= 8 {
            (256 * 256, 256 * 128)
        } else {
            (256 * 128, 0)
        };
        let (scales, second) = if sizes.coded {
            (16 * (4 + 4), 256 * COPIES * 4)
        } else {
            (16 * STEP / BLOCK * 4, 0)
        };
        let rings = warps * STAGES * (16 * STEP / 2 + scales + size_of::<u64>());
        // Those of warps, and with several passes those of the passes so far.
        let sums = warps * if passes == 1 { 2 } else { 3 } * 16 * tokens * size_of::<f32>();
        let pass_steps = (cols / STEP).div_ceil(passes);
        let x = tokens * pass_steps * STEP * 2;
        let x_apart = x > between;
        // Apart, they start at a multiple of 128.
        let shared = table + rings + second + sums + if x_apart { 128 + x } else { 0 };
        (shared <= most).then_some(Self {
            warps,
            stages: STAGES,
            pass_steps,
            x_apart,
            shared,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Limits = Limits {
        multiprocessors: 132,
        shared: 232_448,
        half: 115_712,
    };

    fn warps(rows: usize, cols: usize, tokens: usize, coded: bool) -> Option<usize> {
        let sizes = Sizes {
            rows,
            cols,
            tokens,
            coded,
        };
        let plan = Plan::best(sizes, H200)?;
        assert!(plan.shared <= H200.shared);
        Some(plan.warps)
    }

    /// The plans that were measured to be the fastest (docs/gpu.md).
    #[test]
    fn plans_are_those_that_were_fast() {
        assert_eq!(warps(4096, 4096, 1, false), Some(8));
        assert_eq!(warps(14336, 4096, 1, false), Some(12));
        assert_eq!(warps(14336, 4096, 1, true), Some(8));
        assert_eq!(warps(4096, 14336, 1, false), Some(12));
        assert_eq!(warps(14336, 4096, 8, false), Some(16));
        assert_eq!(warps(14336, 4096, 16, false), Some(8));
        assert_eq!(warps(16384, 3072, 16, false), Some(12));
        assert_eq!(warps(3072, 16384, 4, false), Some(16));
        assert_eq!(warps(4096, 14336, 8, false), None);
    }
}
