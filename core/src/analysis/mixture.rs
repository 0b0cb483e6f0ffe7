//! Grouping by mode alone, as the original system did, mixes what a directory mixes. This says when it does.

use std::collections::BTreeSet;

use crate::results::{BenchmarkRow, QualityRow};

/// A warning that names the mixture, for the performance rows that have numbers; `None` when there is none.
pub(super) fn performance_mixture(rows: &[BenchmarkRow]) -> Option<String> {
    let columns: [(&str, fn(&BenchmarkRow) -> &str); 5] = [
        ("model", |row| &row.model),
        ("backend", |row| &row.backend),
        ("device", |row| &row.device),
        ("precision", |row| &row.precision),
        ("condition", |row| &row.condition),
    ];
    let ok: Vec<&BenchmarkRow> = rows.iter().filter(|row| row.is_ok()).collect();
    warning(
        "the performance tables group by quantization alone and average over",
        &ok,
        &columns,
    )
}

/// The same for quality rows.
pub(super) fn quality_mixture(rows: &[QualityRow]) -> Option<String> {
    let columns: [(&str, fn(&QualityRow) -> &str); 5] = [
        ("model", |row| &row.model),
        ("backend", |row| &row.backend),
        ("device", |row| &row.device),
        ("precision", |row| &row.precision),
        ("condition", |row| &row.condition),
    ];
    let ok: Vec<&QualityRow> = rows.iter().filter(|row| row.is_ok()).collect();
    warning("the quality figures average over", &ok, &columns)
}

fn warning<Row>(what: &str, rows: &[&Row], columns: &[(&str, fn(&Row) -> &str)]) -> Option<String> {
    let mixed: Vec<String> = columns
        .iter()
        .filter_map(|(name, value)| {
            let values: BTreeSet<&str> = rows
                .iter()
                .map(|row| value(row))
                .filter(|value| !value.is_empty())
                .collect();
            let values: Vec<&str> = values.into_iter().collect();
            (values.len() > 1).then(|| format!("{} values of {name} ({})", values.len(), values.join(", ")))
        })
        .collect();
    (!mixed.is_empty()).then(|| format!("{what} {}", mixed.join(" and ")))
}
