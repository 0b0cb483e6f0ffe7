//! A table's buckets by look-up: which of equal bins a number lies in, then a comparison or two.

use qbench_sdk::layout::four_bit::Table;

/// Bins of equal width from -1 to 1.
pub(super) const BINS: usize = 32;

/// What bin a number lies in follows from `x · SCALE + SHIFT`, rounded once.
pub(super) const SCALE: f32 = (BINS / 2) as f32;
pub(super) const SHIFT: f32 = SCALE;

/// Bounds between buckets that a bin may hold.
pub(super) const BOUNDS: usize = 2;

/// The buckets of each bin.
#[derive(Clone, Debug)]
pub(super) struct Bins {
    /// The bounds in each bin, ascending; infinity, which no number exceeds, where there are fewer.
    pub(super) bounds: [[f32; BINS]; BOUNDS],
    /// Code of what exceeds none of the bin's bounds, one, and so on.
    pub(super) codes: [[i32; BINS]; BOUNDS + 1],
    /// The most bounds that a bin holds.
    pub(super) most: usize,
}

/// The bin of a number that is not NaN; what lies outside counts to the bins at the ends.
fn bin(value: f32) -> usize {
    value.mul_add(SCALE, SHIFT).clamp(0.0, (BINS - 1) as f32) as usize
}

impl Bins {
    /// `None` where more bounds share a bin.
    ///
    /// A number's bin never decreases as the number grows. So a number in another bin than a bound lies on the side of
    /// the bound that its bin says, however the bin was rounded.
    pub(super) fn new(table: &Table) -> Option<Self> {
        let mut bins = Self {
            bounds: [[f32::INFINITY; BINS]; BOUNDS],
            codes: [[0; BINS]; BOUNDS + 1],
            most: 0,
        };
        for index in 0..BINS {
            let below = table.bounds.iter().filter(|bound| bin(**bound) < index).count();
            let inside = table.bounds.iter().filter(|bound| bin(**bound) == index).count();
            if inside > BOUNDS {
                return None;
            }
            for (bounds, bound) in bins.bounds.iter_mut().zip(&table.bounds[below..below + inside]) {
                bounds[index] = *bound;
            }
            for (exceeded, codes) in bins.codes.iter_mut().enumerate() {
                codes[index] = i32::from(table.codes[below + exceeded.min(inside)]);
            }
            bins.most = bins.most.max(inside);
        }
        Some(bins)
    }
}

#[cfg(test)]
mod tests {
    use qbench_sdk::layout::four_bit::{FP4, NF4};

    use super::*;

    #[test]
    fn both_tables_fit_and_a_crowded_one_does_not() {
        for (table, most) in [(&NF4, 1), (&FP4, 2)] {
            let bins = Bins::new(table).unwrap();
            assert_eq!(bins.most, most);
            for (bucket, bound) in table.bounds.iter().enumerate() {
                let index = bin(*bound);
                let place = bins
                    .bounds
                    .iter()
                    .position(|bounds| bounds[index] == *bound)
                    .unwrap();
                let codes = [bins.codes[place][index], bins.codes[place + 1][index]];
                assert_eq!(
                    codes,
                    [bucket, bucket + 1].map(|bucket| i32::from(table.codes[bucket]))
                );
            }
        }
        let mut crowded = FP4.clone();
        crowded.bounds[9] = crowded.bounds[8].next_up();
        assert!(Bins::new(&crowded).is_none());
    }
}
