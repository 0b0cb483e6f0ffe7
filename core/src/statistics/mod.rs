//! Statistics as pure functions of slices.

mod summary;

pub use summary::{Summary, mean, quantile, standard_deviation};
