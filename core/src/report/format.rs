//! How the report writes numbers and lists.

use std::collections::BTreeSet;

use crate::analysis::significant;
use crate::statistics::{Interval, Summary};

/// Significant digits of the numbers in the report.
const DIGITS: usize = 4;
/// Digits of cosine and correlation, whose differences from 1 matter.
const CLOSE_TO_ONE_DIGITS: usize = 6;

/// A heading with the column under it.
pub(super) type Column<Row> = (&'static str, fn(&Row) -> Option<f64>);

pub(super) fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| significant(value, DIGITS))
}

pub(super) fn close_to_one(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| significant(value, CLOSE_TO_ONE_DIGITS))
}

pub(super) fn with_deviation(summary: Option<Summary>) -> String {
    match summary {
        None => "-".to_owned(),
        Some(Summary { mean, std: None, .. }) => significant(mean, DIGITS),
        Some(Summary {
            mean, std: Some(std), ..
        }) => {
            format!("{} ± {}", significant(mean, DIGITS), significant(std, 2))
        }
    }
}

/// The ends of an interval, `8123–8790`.
pub(super) fn range(interval: Interval) -> String {
    format!(
        "{}–{}",
        significant(interval.low, DIGITS),
        significant(interval.high, DIGITS)
    )
}

/// A number with its interval, `8410 [8123–8790]`.
pub(super) fn with_interval(value: f64, interval: Option<Interval>) -> String {
    let value = significant(value, DIGITS);
    interval.map_or_else(
        || value.clone(),
        |interval| format!("{value} [{}]", range(interval)),
    )
}

pub(super) fn bullets<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.flat_map(|line| ["  - ", line, "\n"]).collect()
}

pub(super) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<BTreeSet<T>>().into_iter().collect()
}
