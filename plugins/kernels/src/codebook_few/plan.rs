//! How a product of few tokens is divided. Which division is fastest was measured on an H200.

// As in `cuda/codebook_few.cu`.
pub(super) const BLOCK: usize = 64;
pub(super) const SLICE: usize = 256;
/// Rows a tile.
pub(super) const TILE: usize = 16;
const MOST_WARPS: usize = 16;
const FEWEST_WARPS: usize = 8;
const TABLE_BYTES: usize = 256 * 256;
/// Bytes that say where a tile lies, and of a scale of the second level with its offset.
const PLACE_BYTES: usize = 8;
const SECOND_BYTES: usize = 8;

/// Steps a warp has room for in shared memory, no more than the kernel has barriers for: one is multiplied while the others
/// are on their way.
const STAGES: [usize; 2] = [3, 2];
/// Bytes of a step's codes, and of its scales.
const CODE_BYTES: usize = TILE * SLICE / 2;
const SCALE_BYTES: usize = TILE * SLICE / BLOCK * 4;

/// Slices from which blocks may share a tile.
const LONG: usize = 32;

/// What there is of a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) multiprocessors: usize,
    /// Bytes of shared memory of a block of threads at most.
    pub(super) shared: usize,
}

/// A product, as far as a plan depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Tiles of 16 rows, of all weights.
    pub(super) tiles: usize,
    pub(super) cols: usize,
    pub(super) tokens: usize,
    /// Scales a block of the second level, where scales are coded.
    pub(super) second_block: Option<usize>,
    /// Whether tiles come in pairs.
    pub(super) gated: bool,
}

/// How a launch divides the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// Clusters of `split` blocks of threads.
    pub(super) units: usize,
    /// Blocks of threads that share the columns of a tile.
    pub(super) split: usize,
    pub(super) warps: usize,
    /// Warps that share the columns of a tile.
    pub(super) sharing: usize,
    /// Slices of the activations that a warp holds at a time.
    pub(super) held: usize,
    /// Scales of the second level that a tile has part in.
    pub(super) seconds: usize,
    pub(super) rounds: usize,
    /// Tiles a round: their sums are in shared memory at once.
    pub(super) round: usize,
    pub(super) stages: usize,
    /// Bytes of shared memory.
    pub(super) shared: usize,
}

impl Plan {
    /// The plan for such a product; `None` where its sums do not find room.
    pub(super) fn best(sizes: Sizes, limits: Limits) -> Option<Self> {
        // Whether whole tiles leave a fifth of the multiprocessors' time unused.
        let uneven = 5 * sizes.tiles < 4 * sizes.tiles.next_multiple_of(limits.multiprocessors);
        let split = if uneven && sizes.cols / SLICE >= LONG {
            2
        } else {
            1
        };
        STAGES
            .into_iter()
            .filter_map(|stages| Self::new(sizes, limits, split, stages))
            .min_by_key(|plan| plan.rounds)
    }

    fn new(sizes: Sizes, limits: Limits, split: usize, stages: usize) -> Option<Self> {
        let pair = if sizes.gated { 2 } else { 1 };
        let units = (limits.multiprocessors / split).min(sizes.tiles / pair).max(1);
        let tiles = (sizes.tiles / pair).div_ceil(units) * pair;
        let slices = sizes.cols / SLICE / split;
        // Fewest steps a warp, where another slice of the activations counts as one; of those, most warps, and of those, as
        // many as can be that share the columns.
        let (sharing, groups) = (1..=slices.min(MOST_WARPS))
            .map(|sharing| (sharing, (MOST_WARPS / sharing).min(tiles)))
            .min_by_key(|&(sharing, groups)| {
                let passes = slices.div_ceil(sharing);
                (
                    passes * tiles.div_ceil(groups) + passes,
                    MOST_WARPS - sharing * groups,
                    MOST_WARPS - sharing,
                )
            })?;
        // The table takes more warps than the product of a small matrix.
        let groups = groups.max(FEWEST_WARPS.div_ceil(sharing));
        let warps = sharing * groups;
        let columns = if sizes.tokens > 8 { 16 } else { 8 };
        let held = slices.div_ceil(sharing).min(columns / sizes.tokens);
        let most_tiles = tiles + pair;
        // Of coded scales also what a step's are decoded to, and what tiles have part in of the second level.
        let seconds = sizes
            .second_block
            .map_or(0, |block| TILE * (sizes.cols / BLOCK) / block + 2);
        let coded = match sizes.second_block {
            Some(_) => warps * SCALE_BYTES + most_tiles * seconds * SECOND_BYTES,
            None => 0,
        };
        let fixed = TABLE_BYTES
            + coded
            + most_tiles * PLACE_BYTES
            + warps * stages * (CODE_BYTES + SCALE_BYTES + size_of::<u64>());
        let sums = (sharing + split - 1) * TILE * sizes.tokens * size_of::<f32>();
        let room = limits.shared.checked_sub(fixed)? / sums / pair * pair;
        // Rounds of equal length.
        let rounds = (room >= pair).then(|| tiles.div_ceil(room))?;
        let round = tiles.div_ceil(rounds).next_multiple_of(pair);
        Some(Self {
            units,
            split,
            warps,
            sharing,
            held,
            seconds,
            rounds,
            round,
            stages,
            shared: fixed + round * sums,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Limits = Limits {
        multiprocessors: 132,
        shared: 232_448,
    };

    fn plan(rows: usize, cols: usize, tokens: usize, second_block: Option<usize>) -> Option<Plan> {
        let sizes = Sizes {
            tiles: rows.div_ceil(TILE),
            cols,
            tokens,
            second_block,
            gated: false,
        };
        let plan = Plan::best(sizes, H200);
        assert!(plan.is_none_or(|plan| plan.shared <= H200.shared));
        plan
    }

    /// Warps, those that share the columns, blocks a cluster, stages and rounds.
    fn numbers(rows: usize, cols: usize, tokens: usize) -> Option<[usize; 5]> {
        let plan = plan(rows, cols, tokens, None)?;
        Some([plan.warps, plan.sharing, plan.split, plan.stages, plan.rounds])
    }

    /// The plans that were measured to be the fastest (docs/gpu.md).
    #[test]
    fn plans_are_those_that_were_fast() {
        assert_eq!(numbers(4096, 4096, 1), Some([16, 16, 1, 3, 1]));
        assert_eq!(numbers(14336, 4096, 1), Some([16, 16, 1, 3, 1]));
        assert_eq!(numbers(4096, 14336, 1), Some([16, 16, 1, 3, 1]));
        assert_eq!(numbers(3072, 16384, 1), Some([16, 16, 2, 3, 1]));
        assert_eq!(numbers(3072, 3072, 1), Some([12, 12, 1, 3, 1]));
        assert_eq!(numbers(14336, 4096, 8), Some([16, 16, 1, 2, 1]));
        assert_eq!(numbers(14336, 4096, 16), Some([16, 16, 1, 2, 2]));
    }

    #[test]
    fn warps_of_a_short_row_share_tiles_instead() {
        assert_eq!(numbers(32768, 768, 1), Some([15, 3, 1, 3, 1]));
        // One tile a multiprocessor, and idle warps that make the table.
        assert_eq!(numbers(768, 256, 1), Some([8, 1, 1, 3, 1]));
    }

    #[test]
    fn as_many_slices_of_the_activations_are_held_as_there_are_columns() {
        let held = |tokens| plan(4096, 14336, tokens, None).map(|plan| plan.held);
        assert_eq!([held(1), held(3), held(8)], [Some(4), Some(2), Some(1)]);
        assert_eq!([held(9), held(16)], [Some(1), Some(1)]);
    }

    #[test]
    fn coded_scales_find_room_too() {
        for (rows, cols) in [(14336, 4096), (32768, 3072), (3072, 16384), (1_000_000, 1024)] {
            for tokens in [1, 8, 16] {
                assert!(
                    plan(rows, cols, tokens, Some(256)).is_some(),
                    "{rows} x {cols}, {tokens}"
                );
            }
        }
    }
}
