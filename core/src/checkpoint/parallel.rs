use std::thread;

/// Splits `bytes` into one part a thread, each of a whole number of `unit` bytes but the last, and fills them at the
/// same time; `fill` gets the offset of its part.
pub(super) fn fill_parts(
    bytes: &mut [u8],
    unit: usize,
    threads: usize,
    fill: impl Fn(usize, &mut [u8]) + Sync,
) {
    let units = bytes.len().div_ceil(unit);
    let part = units.div_ceil(threads.max(1)).max(1) * unit;
    if bytes.len() <= part {
        return fill(0, bytes);
    }
    thread::scope(|scope| {
        for (index, bytes) in bytes.chunks_mut(part).enumerate() {
            let fill = &fill;
            scope.spawn(move || fill(index * part, bytes));
        }
    });
}
