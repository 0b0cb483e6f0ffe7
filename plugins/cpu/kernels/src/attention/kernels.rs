//! The kernels, for any vector: functions that are inlined into those that are compiled for its instructions.
//!
//! Closures would not be, and each instruction in them would be a call.

use super::{
    rows::{ROWS, Rows},
    vector::Vector,
};
use crate::matrix::{Block, View};

/// Calls a function with the number of queries as its constant.
macro_rules! for_queries {
    ($count:expr, $function:ident::<$vector:ty>$arguments:tt) => {
        match $count {
            1 => $function::<$vector, 1> $arguments,
            2 => $function::<$vector, 2> $arguments,
            3 => $function::<$vector, 3> $arguments,
            _ => $function::<$vector, 4> $arguments,
        }
    };
}

/// `out = queries · keysᵀ`.
///
/// # Safety
/// The processor has the vector's instructions; the shapes fit.
#[inline(always)]
pub(super) unsafe fn scores<V: Vector>(queries: View<'_>, keys: View<'_>, out: &mut Block<'_>) {
    for first in (0..keys.rows()).step_by(ROWS) {
        let keys = Rows::new(keys, first);
        for query in (0..queries.rows()).step_by(V::QUERIES) {
            let count = V::QUERIES.min(queries.rows() - query);
            // SAFETY: the caller's.
            unsafe { for_queries!(count, scores_of_rows::<V>(queries, query, &keys, first, out)) }
        }
    }
}

/// # Safety
/// The processor has the vector's instructions; the shapes fit.
#[inline(always)]
unsafe fn scores_of_rows<V: Vector, const QUERIES: usize>(
    queries: View<'_>,
    query: usize,
    keys: &Rows<'_>,
    first: usize,
    out: &mut Block<'_>,
) {
    let queries: [&[f32]; QUERIES] = std::array::from_fn(|index| queries.row(query + index));
    let whole = keys.width() / V::LANES * V::LANES;
    // SAFETY: the processor has the instructions, and queries are as wide as keys (the caller's).
    unsafe {
        let mut sums = [[V::splat(0.0); ROWS]; QUERIES];
        for at in (0..whole).step_by(V::LANES) {
            add_products(queries, keys, at, V::LANES, &mut sums);
        }
        if whole < keys.width() {
            add_products(queries, keys, whole, keys.width() - whole, &mut sums);
        }
        for (index, sums) in sums.into_iter().enumerate() {
            // There may be room for fewer than four.
            for (score, total) in out.row(query + index)[first..].iter_mut().zip(V::totals(sums)) {
                *score = total;
            }
        }
    }
}

/// # Safety
/// The processor has the vector's instructions; so many columns are there from `at` on.
#[inline(always)]
unsafe fn add_products<V: Vector, const QUERIES: usize>(
    queries: [&[f32]; QUERIES],
    keys: &Rows<'_>,
    at: usize,
    lanes: usize,
    sums: &mut [[V; ROWS]; QUERIES],
) {
    // SAFETY: the caller's.
    unsafe {
        let keys: [V; ROWS] = keys.load(at, lanes);
        for (sums, query) in sums.iter_mut().zip(queries) {
            let query = V::load(query.as_ptr().add(at), lanes);
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum = sum.add_product(query, key);
            }
        }
    }
}

/// `out += weights · values`.
///
/// # Safety
/// The processor has the vector's instructions; the shapes fit.
#[inline(always)]
pub(super) unsafe fn add_weighted<V: Vector>(weights: View<'_>, values: View<'_>, out: &mut Block<'_>) {
    for first in (0..values.rows()).step_by(ROWS) {
        let values = Rows::new(values, first);
        for query in (0..weights.rows()).step_by(V::QUERIES) {
            let count = V::QUERIES.min(weights.rows() - query);
            // SAFETY: the caller's.
            unsafe { for_queries!(count, add_weighted_rows::<V>(weights, query, &values, first, out)) }
        }
    }
}

/// # Safety
/// The processor has the vector's instructions; the shapes fit.
#[inline(always)]
unsafe fn add_weighted_rows<V: Vector, const QUERIES: usize>(
    weights: View<'_>,
    query: usize,
    values: &Rows<'_>,
    first: usize,
    out: &mut Block<'_>,
) {
    let out: [*mut f32; QUERIES] = std::array::from_fn(|index| out.row(query + index).as_mut_ptr());
    let whole = values.width() / V::LANES * V::LANES;
    // SAFETY: the processor has the instructions, and rows of `out` are as wide as values (the caller's).
    unsafe {
        // Those of rows that are not there stay zero.
        let mut splats = [[V::splat(0.0); ROWS]; QUERIES];
        for (index, splats) in splats.iter_mut().enumerate() {
            for (splat, weight) in splats.iter_mut().zip(&weights.row(query + index)[first..]) {
                *splat = V::splat(*weight);
            }
        }
        for at in (0..whole).step_by(V::LANES) {
            add_values(splats, values, at, V::LANES, out);
        }
        if whole < values.width() {
            add_values(splats, values, whole, values.width() - whole, out);
        }
    }
}

/// # Safety
/// The processor has the vector's instructions; so many columns are there from `at` on, in values and in `out`.
#[inline(always)]
unsafe fn add_values<V: Vector, const QUERIES: usize>(
    weights: [[V; ROWS]; QUERIES],
    values: &Rows<'_>,
    at: usize,
    lanes: usize,
    out: [*mut f32; QUERIES],
) {
    // SAFETY: the caller's.
    unsafe {
        let values: [V; ROWS] = values.load(at, lanes);
        for (out, weights) in out.into_iter().zip(weights) {
            let mut sum = V::load(out.add(at), lanes);
            for (weight, value) in weights.into_iter().zip(values) {
                sum = sum.add_product(weight, value);
            }
            sum.store(out.add(at), lanes);
        }
    }
}
