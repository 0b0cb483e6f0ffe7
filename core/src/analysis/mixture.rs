//! Grouping by mode alone, as the original system did, mixes what a directory mixes. This says when it does.

use std::collections::{BTreeMap, BTreeSet};

use crate::results::{BenchmarkRow, QualityRow};

/// A warning that names the mixture, for the performance rows that have numbers; `None` when there is none.
pub(super) fn performance_mixture(rows: &[BenchmarkRow]) -> Option<String> {
    let settings = rows.iter().filter(|row| row.is_ok()).map(BenchmarkRow::setting);
    let mixed = mixed(settings)?;
    Some(format!(
        "the performance tables group by quantization alone and average over {mixed}"
    ))
}

/// The same for quality rows.
pub(super) fn quality_mixture(rows: &[QualityRow]) -> Option<String> {
    let settings = rows.iter().filter(|row| row.is_ok()).map(QualityRow::setting);
    Some(format!("the quality figures average over {}", mixed(settings)?))
}

/// The columns with several values, in words.
fn mixed<'a>(settings: impl Iterator<Item = [(&'static str, &'a str); 5]>) -> Option<String> {
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (column, value) in settings.flatten().filter(|(_, value)| !value.is_empty()) {
        values.entry(column).or_default().insert(value);
    }
    let mixed: Vec<String> = values
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(column, values)| {
            let names: Vec<&str> = values.iter().copied().collect();
            format!("{} values of {column} ({})", names.len(), names.join(", "))
        })
        .collect();
    (!mixed.is_empty()).then(|| mixed.join(" and "))
}
