//! Grouping by mode alone, as the original system did, mixes what a directory mixes. This says when it does.

use std::collections::{BTreeMap, BTreeSet};

use crate::results::{BenchmarkRow, QualityRow};

/// The columns in which rows that are averaged differ, in words: `2 conditions (tok=256, tok=1024) and 2 batch sizes
/// (2, 16)`. `None` when they agree.
pub(crate) fn performance_mixture<'a>(rows: impl Iterator<Item = &'a BenchmarkRow>) -> Option<String> {
    mixed(rows.flat_map(performance_setting))
}

/// The same for quality rows.
pub(crate) fn quality_mixture<'a>(rows: impl Iterator<Item = &'a QualityRow>) -> Option<String> {
    mixed(rows.flat_map(|row| row.setting().map(|(column, value)| (column, value.to_owned()))))
}

/// Warnings about what the tables and figures average over.
pub(super) fn warnings(rows: &[BenchmarkRow], quality: &[QualityRow]) -> Vec<String> {
    let ok = || rows.iter().filter(|row| row.is_ok());
    let performance = performance_mixture(ok()).map(|mixture| {
        format!(
            "the performance tables and figures group by mode alone, hence their means are over {mixture}; the \
             benchmark table has every row"
        )
    });
    let quality = quality_mixture(quality.iter().filter(|row| row.is_ok())).map(|mixture| {
        format!("the quality figures group by mode alone, hence their means are over {mixture}; the table has every row")
    });
    [performance, uneven(ok()), quality]
        .into_iter()
        .flatten()
        .collect()
}

/// What was measured, by the name of the column, with the batch size.
pub(crate) fn performance_setting(row: &BenchmarkRow) -> Vec<(&'static str, String)> {
    let setting = row.setting().map(|(column, value)| (column, value.to_owned()));
    let batch_size = row.batch_size.map(|size| ("batch size", size.to_string()));
    setting.into_iter().chain(batch_size).collect()
}

/// The columns that hold several values, with these, sorted.
pub(crate) fn differing_settings(
    fields: impl Iterator<Item = (&'static str, String)>,
) -> Vec<(&'static str, Vec<String>)> {
    let mut columns: Vec<(&str, BTreeSet<String>)> = Vec::new();
    for (column, value) in fields.filter(|(_, value)| !value.is_empty()) {
        match columns.iter_mut().find(|(known, _)| *known == column) {
            Some((_, values)) => {
                values.insert(value);
            }
            None => columns.push((column, BTreeSet::from([value]))),
        }
    }
    let several = columns.into_iter().filter(|(_, values)| values.len() > 1);
    several
        .map(|(column, values)| {
            let mut values: Vec<String> = values.into_iter().collect();
            values.sort_by_cached_key(|value| number_at_end(value));
            (column, values)
        })
        .collect()
}

fn mixed(fields: impl Iterator<Item = (&'static str, String)>) -> Option<String> {
    /// More values than this are counted, not named.
    const NAMED: usize = 8;
    let words: Vec<String> = differing_settings(fields)
        .into_iter()
        .map(|(column, values)| {
            if values.len() > NAMED {
                format!("{} {column}s", values.len())
            } else {
                format!("{} {column}s ({})", values.len(), values.join(", "))
            }
        })
        .collect();
    (!words.is_empty()).then(|| words.join(" and "))
}

/// For sorting `tok=256` before `tok=1024`: the text before the number at the end, and the number.
fn number_at_end(name: &str) -> (String, Option<u64>) {
    let text = name.trim_end_matches(|character: char| character.is_ascii_digit());
    let number = name.get(text.len()..).and_then(|digits| digits.parse().ok());
    (text.to_owned(), number)
}

/// Names the modes that lack settings which others have: means over different cells cannot be compared.
fn uneven<'a>(rows: impl Iterator<Item = &'a BenchmarkRow>) -> Option<String> {
    let mut of_mode: BTreeMap<&str, BTreeSet<Vec<(&str, String)>>> = BTreeMap::new();
    for row in rows {
        let settings = of_mode.entry(&row.quantization).or_default();
        settings.insert(performance_setting(row));
    }
    let all: BTreeSet<_> = of_mode.values().flatten().collect();
    let lacking: Vec<String> = of_mode
        .iter()
        .filter(|(_, settings)| settings.len() < all.len())
        .map(|(mode, settings)| format!("{mode} ({} of {})", settings.len(), all.len()))
        .collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "not every mode has numbers for every combination of condition, batch size and so on: {}; compare rows of \
             the benchmark table, not the means",
            lacking.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mode: &str, condition: &str, batch_size: u64) -> BenchmarkRow {
        BenchmarkRow {
            quantization: mode.to_owned(),
            model: "tiny".to_owned(),
            condition: condition.to_owned(),
            batch_size: Some(batch_size),
            ..BenchmarkRow::default()
        }
    }

    #[test]
    fn what_agrees_is_no_mixture() {
        let rows = [row("8bit", "full", 4), row("standard", "full", 4)];
        assert!(warnings(&rows, &[]).is_empty());
    }

    #[test]
    fn values_are_named_in_the_order_of_their_numbers() {
        let rows = [row("8bit", "tok=1024", 16), row("8bit", "tok=256", 2)];
        assert_eq!(
            performance_mixture(rows.iter()).unwrap(),
            "2 conditions (tok=256, tok=1024) and 2 batch sizes (2, 16)"
        );
        let many: Vec<BenchmarkRow> = (1..=9).map(|size| row("8bit", "full", size)).collect();
        assert_eq!(performance_mixture(many.iter()).unwrap(), "9 batch sizes");
    }

    #[test]
    fn modes_that_lack_a_cell_are_named() {
        let rows = [
            row("8bit", "full", 1),
            row("8bit", "full", 4),
            row("standard", "full", 1),
        ];
        let warnings = warnings(&rows, &[]);
        assert!(warnings[1].contains(": standard (1 of 2);"), "{warnings:?}");
    }
}
