//! How a product of few tokens is divided. Which division is fastest was measured on an H200.

// As in `cuda/codebook_few.cu`.
pub(super) const BLOCK: usize = 64;
pub(super) const STEP: usize = 256;
/// Rows a tile.
pub(super) const TILE: usize = 16;
/// Steps that a warp has room for in shared memory.
const STAGES: usize = 2;
/// Copies of the second level's table.
const COPIES: usize = 8;

/// The most rows of activations that are worth going over the columns several times, and the most such passes.
const FEW_TOKENS: usize = 4;
const MOST_PASSES: usize = 8;

/// Steps a multiprocessor from which making the next kernel's table early is worth less than warps: of plain scales, and
/// of coded ones, whose table is larger. From the latter on as many warps as there can be are best.
const LARGE: usize = 64;
const LARGEST: usize = 128;
/// Steps a row from which blocks may share it.
const LONG: usize = 32;

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
    /// Tiles of 16 rows, of all weights.
    pub(super) tiles: usize,
    pub(super) cols: usize,
    pub(super) tokens: usize,
    /// Whether scales are coded.
    pub(super) coded: bool,
}

impl Sizes {
    /// Whether whole tiles leave a fifth of the multiprocessors' time unused.
    fn is_uneven(self, multiprocessors: usize) -> bool {
        5 * self.tiles < 4 * self.tiles.next_multiple_of(multiprocessors)
    }
}

/// How a launch divides the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) warps: usize,
    /// Blocks of threads that share the columns of a tile.
    pub(super) split: usize,
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
        let Limits {
            multiprocessors,
            shared,
            half,
        } = limits;
        let steps = sizes.tiles * (sizes.cols / STEP) / multiprocessors;
        // Room for a second block: the next product then makes its table and fetches its first codes meanwhile.
        let beside = |split| Self::new(sizes, (8, split), 1, half);
        let alone = |warps, split| Self::new(sizes, (warps, split), 1, shared);
        if sizes.is_uneven(multiprocessors) && sizes.cols / STEP >= LONG && sizes.tokens <= FEW_TOKENS {
            let halves = if sizes.coded { beside(2) } else { alone(12, 2) };
            if halves.is_some() {
                return halves;
            }
        }
        let small = if sizes.coded { LARGEST } else { LARGE };
        if let Some(plan) = (steps < small).then(|| beside(1)).flatten() {
            return Some(plan);
        }
        // More warps hide more latency, fewer leave more memory to the activations.
        let warps = if sizes.tokens < FEW_TOKENS && steps < LARGEST {
            [12, 16, 8]
        } else {
            [16, 12, 8]
        };
        let passes = if sizes.tokens <= FEW_TOKENS {
            MOST_PASSES
        } else {
            1
        };
        warps
            .into_iter()
            .find_map(|warps| alone(warps, 1))
            .or_else(|| (2..=passes).find_map(|passes| Self::new(sizes, (16, 1), passes, shared)))
            .or_else(|| alone(8, 2))
    }

    /// A plan with so many warps, blocks a cluster and passes over the columns, in so many bytes of shared memory.
    fn new(sizes: Sizes, (warps, split): (usize, usize), passes: usize, most: usize) -> Option<Self> {
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
        // Those of warps, with several passes those of the passes so far, and those of the cluster's second block.
        let sums = warps * (2 + usize::from(passes > 1) + (split - 1)) * 16 * tokens * size_of::<f32>();
        let pass_steps = (cols / STEP).div_ceil(split).div_ceil(passes);
        let x = tokens * pass_steps * STEP * 2;
        let x_apart = x > between;
        // Apart, they start at a multiple of 128.
        let shared = table + rings + second + sums + if x_apart { 128 + x } else { 0 };
        (shared <= most && cols / STEP >= split).then_some(Self {
            warps,
            split,
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

    /// Warps and blocks a cluster.
    fn plan(rows: usize, cols: usize, tokens: usize, coded: bool) -> Option<(usize, usize)> {
        let sizes = Sizes {
            tiles: rows.div_ceil(TILE),
            cols,
            tokens,
            coded,
        };
        let plan = Plan::best(sizes, H200)?;
        assert!(plan.shared <= H200.shared);
        Some((plan.warps, plan.split))
    }

    /// The plans that were measured to be the fastest (docs/gpu.md).
    #[test]
    fn plans_are_those_that_were_fast() {
        assert_eq!(plan(4096, 4096, 1, false), Some((8, 1)));
        assert_eq!(plan(14336, 4096, 1, false), Some((12, 1)));
        assert_eq!(plan(14336, 4096, 1, true), Some((8, 1)));
        assert_eq!(plan(4096, 14336, 1, false), Some((12, 1)));
        assert_eq!(plan(3072, 16384, 1, false), Some((12, 2)));
        assert_eq!(plan(3072, 16384, 1, true), Some((8, 2)));
        assert_eq!(plan(32768, 3072, 1, false), Some((16, 1)));
        assert_eq!(plan(32768, 3072, 1, true), Some((16, 1)));
        assert_eq!(plan(14336, 4096, 8, false), Some((16, 1)));
        assert_eq!(plan(14336, 4096, 16, false), Some((8, 1)));
        assert_eq!(plan(16384, 3072, 16, false), Some((12, 1)));
        assert_eq!(plan(4096, 14336, 8, false), Some((8, 2)));
        assert_eq!(plan(4096, 14336, 16, false), None);
    }
}
