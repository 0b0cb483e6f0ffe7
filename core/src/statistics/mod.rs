//! Statistics: the one home of what tables, stopping rules and comparisons compute from samples.
//!
//! Pure functions of slices: no clock, no file, no randomness but that of the generator passed in. Samples are wall
//! clock times or other positive measurements in any unit; results have the same unit.

mod bootstrap;
mod clusters;
mod grouped;
mod holm;
mod mcnemar;
mod outliers;
mod paired;
mod rank;
mod stopping;
mod streamed;
mod summary;
#[cfg(test)]
mod test_samples;
mod trend;
mod warm_up;

use statrs::distribution::StudentsT;

pub use bootstrap::{
    CONFIDENCE, Interval, RESAMPLES, median_interval_bca, median_interval_hierarchical,
    median_interval_percentile,
};
pub use clusters::cluster_intervals;
pub use grouped::{FEWEST_RESAMPLES, GroupedSamples, grouped_median, grouped_median_interval};
pub use holm::holm;
pub use mcnemar::mcnemar;
pub use outliers::{Fences, Outlier, tukey_outliers};
pub use paired::{Effect, MINIMUM_PAIRS, PairedTest, Question};
pub use rank::{pearson, spearman};
pub use stopping::{Decision, StoppingRule};
pub use streamed::StreamedValues;
pub use summary::{
    Summary, mean, mean_interval, median, quantile, quantile_is_supported, standard_deviation,
    supported_quantile,
};
pub(crate) use summary::{interpolate, quantile_of_sorted};
pub use warm_up::{WarmUp, detect_warm_up};

/// Student's t with so many degrees of freedom, at least one.
fn student_t(degrees: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, degrees as f64).ok()
}
