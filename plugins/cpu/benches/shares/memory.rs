//! Data to work on.

/// Bytes that a turn over all of [`beyond_caches`] touches: far more than the caches hold.
const TURN: usize = 128 << 20;

/// So many of the same kind that, taken in turn, each comes from memory.
pub(crate) fn beyond_caches<T>(make: impl Fn() -> T, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let first = make();
    let count = TURN.div_ceil(bytes(&first));
    let mut all = vec![first];
    all.resize_with(count, make);
    all
}

/// Floats near one, which are numbers of bf16 as well.
pub(crate) fn floats(count: usize) -> Vec<f32> {
    (0..count).map(|i| 1.0 + (i % 7) as f32 / 8.0).collect()
}
