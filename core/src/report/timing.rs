//! The time of a batch in each cell, over its repeats.

use std::fmt::Write;

use super::format::{number, with_interval};
use super::text_table::TextTable;
use crate::analysis::{TimedCell, differing_settings};

/// A line a cell; empty when no samples were kept.
pub(super) fn timing(cells: &[TimedCell]) -> String {
    if cells.is_empty() {
        return String::new();
    }
    let settings = || cells.iter().flat_map(|cell| cell.setting.iter().cloned());
    let differing: Vec<&str> = differing_settings(settings())
        .into_iter()
        .map(|(column, _)| column)
        .collect();
    let mut table = TextTable::new(["mode"].into_iter().chain(differing.iter().copied()).chain([
        "repeats",
        "samples",
        "ms/batch",
        "tokens/s",
        "bases/s",
        "speed vs standard",
        "p90 ms",
        "p99 ms",
        "outliers",
        "converged",
    ]));
    for cell in cells {
        let setting = differing.iter().map(|column| {
            let value = cell.setting.iter().find(|(name, _)| name == column);
            value.map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
        });
        let milliseconds = |seconds: f64| seconds * 1e3;
        let interval = cell.interval.map(|interval| crate::statistics::Interval {
            low: milliseconds(interval.low),
            high: milliseconds(interval.high),
        });
        let (tokens, tokens_interval) = cell.tokens_per_second();
        let [p90, p99] = cell.percentiles.map(|seconds| number(seconds.map(milliseconds)));
        let values = [
            cell.blocks.to_string(),
            cell.samples.to_string(),
            with_interval(milliseconds(cell.typical), interval),
            with_interval(tokens, tokens_interval),
            number(cell.bases_per_second().map(|(bases, _)| bases)),
            cell.speed.map_or_else(
                || "-".to_owned(),
                |speed| with_interval(speed, cell.speed_interval),
            ),
            p90,
            p99,
            cell.outliers.to_string(),
            format!("{} of {}", cell.converged, cell.blocks),
        ];
        table.push(
            [cell.mode.clone()]
                .into_iter()
                .chain(setting)
                .chain(values)
                .collect(),
        );
    }
    let mut text = table.render();
    if cells.iter().any(|cell| cell.converged < cell.blocks) {
        let _ = writeln!(
            text,
            "  a repeat that has not converged ran out of --time-budget before its median was known within --target-ci"
        );
    }
    text
}
