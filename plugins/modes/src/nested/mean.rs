//! The mean in torch's order of sums, so that its last bit is torch's.

/// Vectors that are summed side by side.
const ACCUMULATORS: usize = 4;
/// Levels of the cascade that keeps small sums apart from large ones.
const LEVELS: usize = 4;

/// The f32 mean as torch computes it on a CPU with one thread: 8 lanes, whatever the CPU has.
///
/// With several threads torch sums 32768 values or more in as many chunks, which changes the last bits; here the number
/// of threads never does. Source: `SumKernel.cpp` of ATen, torch 2.11.
pub(super) fn mean(values: &[f32]) -> f32 {
    let sum = if values.len() < 8 {
        sum::<1>(values)
    } else {
        sum::<8>(values)
    };
    sum / values.len() as f32
}

fn sum<const LANES: usize>(values: &[f32]) -> f32 {
    let (vectors, tail) = values.as_chunks::<LANES>();
    let (groups, rest) = vectors.as_chunks::<ACCUMULATORS>();
    let mut sums = cascade(groups);
    for vector in rest {
        add(&mut sums[0], vector);
    }
    let [mut lanes, others @ ..] = sums;
    for other in &others {
        add(&mut lanes, other);
    }
    tail.iter().chain(&lanes).fold(0.0, |sum, value| sum + value)
}

/// Sums the groups, vector `j` of each into accumulator `j`: short runs at level 0, several of those at level 1, and so
/// on.
fn cascade<const LANES: usize>(groups: &[[[f32; LANES]; ACCUMULATORS]]) -> [[f32; LANES]; ACCUMULATORS] {
    let level_power = 4.max(ceil_log2(groups.len()) / LEVELS as u32);
    let run = 1 << level_power;
    let mut levels = [[[0.0; LANES]; ACCUMULATORS]; LEVELS];
    for (index, group) in groups.iter().enumerate() {
        add_all(&mut levels[0], group);
        let done = index + 1;
        if done % run == 0 {
            for level in 1..LEVELS {
                let below = std::mem::replace(&mut levels[level - 1], [[0.0; LANES]; ACCUMULATORS]);
                add_all(&mut levels[level], &below);
                if done & ((run - 1) << (level as u32 * level_power)) != 0 {
                    break;
                }
            }
        }
    }
    let [mut sums, higher @ ..] = levels;
    for level in &higher {
        add_all(&mut sums, level);
    }
    sums
}

/// ⌈log₂ n⌉, but 1 for 0 and 1, as in ATen.
fn ceil_log2(n: usize) -> u32 {
    if n <= 2 {
        1
    } else {
        usize::BITS - (n - 1).leading_zeros()
    }
}

fn add_all<const LANES: usize>(
    sums: &mut [[f32; LANES]; ACCUMULATORS],
    values: &[[f32; LANES]; ACCUMULATORS],
) {
    for (sum, value) in sums.iter_mut().zip(values) {
        add(sum, value);
    }
}

fn add<const LANES: usize>(sum: &mut [f32; LANES], values: &[f32; LANES]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_integers_are_exact() {
        // Up to 2^24 f32 counts exactly, so every order gives the same: none is left out or added twice.
        for count in [1, 2, 7, 8, 9, 31, 32, 33, 511, 512, 513, 4095, 5000, 40_000] {
            let values: Vec<f32> = (0..count).map(|index| (index % 13) as f32).collect();
            let expected: usize = (0..count).map(|index| index % 13).sum();
            assert_eq!(mean(&values), expected as f32 / count as f32, "{count}");
        }
    }

    #[test]
    fn logarithms_are_rounded_up() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 8, 9, 1 << 20].map(ceil_log2),
            [1, 1, 1, 2, 2, 3, 3, 4, 20]
        );
    }
}
