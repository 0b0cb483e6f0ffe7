//! Attention of a few queries to keys and values as they lie in a cache: each is read once for all queries of a view.
//!
//! A cache holds the heads of a position side by side, so a head's part of it is a view of short rows far apart. Memory is
//! read in order when the heads of some positions are taken before the next positions are; those, a view's length behind
//! the view, are fetched meanwhile.
#![expect(
    clippy::inline_always,
    reason = "an instruction becomes one only in a function that is compiled for it"
)]

mod kernels;
mod rows;
#[cfg(test)]
mod tests;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

use vector::Portable;

use crate::{
    InstructionSet,
    matrix::{Block, View},
};

/// `out = queries · keysᵀ`.
///
/// # Panics
/// When the shapes do not fit, or the processor lacks `set`.
pub fn scores(set: InstructionSet, queries: View<'_>, keys: View<'_>, out: &mut Block<'_>) {
    assert!(
        set.is_available()
            && queries.cols() == keys.cols()
            && out.rows() == queries.rows()
            && out.cols() == keys.rows(),
        "{queries:?} times transposed {keys:?} into {} x {} with {set}",
        out.rows(),
        out.cols()
    );
    // SAFETY: the instructions are there and the shapes fit (asserted).
    unsafe {
        match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Dot => x86::scores_512(queries, keys, out),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => x86::scores_256(queries, keys, out),
            _ => kernels::scores::<Portable>(queries, keys, out),
        }
    }
}

/// `out += weights · values`, the values in their order.
///
/// # Panics
/// When the shapes do not fit, or the processor lacks `set`.
pub fn add_weighted(set: InstructionSet, weights: View<'_>, values: View<'_>, out: &mut Block<'_>) {
    assert!(
        set.is_available()
            && weights.cols() == values.rows()
            && out.rows() == weights.rows()
            && out.cols() == values.cols(),
        "{weights:?} times {values:?} into {} x {} with {set}",
        out.rows(),
        out.cols()
    );
    // SAFETY: the instructions are there and the shapes fit (asserted).
    unsafe {
        match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Dot => {
                x86::add_weighted_512(weights, values, out);
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => x86::add_weighted_256(weights, values, out),
            _ => kernels::add_weighted::<Portable>(weights, values, out),
        }
    }
}
