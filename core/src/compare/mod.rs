//! Two sets of measurements compared cell by cell: is B as fast as A, and as good?
//!
//! [`Measured::read`] takes a results directory of this program or of the original system, a copy of a journal, or a
//! benchmark table. [`Comparison::of`] pairs cells by all that identifies them but the repeat, and blocks by their
//! repeat; the time per batch is tested, memory is shown beside. Quality cells are paired by sequence. The tests are those of [`crate::statistics`].

mod comparison;
mod measured;
mod quality;
mod render;

pub use comparison::{ComparedCell, Comparison, Memory, Missing, Speed, Statistic, TestedRatio};
pub use measured::{Block, CellKey, CompareError, Measured, MeasuredCell};
pub use quality::{ComparedQuality, QualityCell, QualityMargins, QualityMetric, QualityVerdict};
pub use render::{markdown, text};

#[cfg(test)]
mod tests;
