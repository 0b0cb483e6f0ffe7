//! Samples that several tests share.

use rand::{Rng, RngExt};

/// 21 times with one value outside Tukey's fences and one far out.
pub(super) const TIMES: [f64; 21] = [
    103.5, 98.25, 101.0, 110.75, 97.5, 99.0, 100.25, 130.0, 98.75, 101.5, 99.5, 100.75, 102.0, 98.0, 104.25,
    99.25, 100.5, 97.0, 101.25, 105.5, 98.5,
];

/// A log-normal value of median 1 whose logarithm deviates by `sigma`, by the method of Box and Muller.
pub(super) fn log_normal(sigma: f64, generator: &mut impl Rng) -> f64 {
    // (0, 1] for the logarithm.
    let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
    let angle = std::f64::consts::TAU * generator.random::<f64>();
    (sigma * radius * angle.cos()).exp()
}
