//! Speed and memory in each setting, for results that hold several.

use std::collections::BTreeMap;

use super::format::{Column, number};
use super::text_table::TextTable;
use crate::analysis::{differing_settings, ordered_modes, performance_setting};
use crate::results::BenchmarkRow;
use crate::statistics::Summary;

/// The means of each mode in each setting; empty when there is one setting.
pub(super) fn by_setting(rows: &[BenchmarkRow]) -> String {
    /// Longer tables are for a program to read, as the benchmark table is.
    const MOST_LINES: usize = 200;
    let rows: Vec<&BenchmarkRow> = rows.iter().filter(|row| row.is_ok()).collect();
    let differing = differing_settings(rows.iter().copied().flat_map(performance_setting));
    if differing.is_empty() {
        return String::new();
    }
    let modes = ordered_modes(rows.iter().map(|row| row.quantization.as_str()));
    // The places of a row's values among all values, then that of its mode, are the order of lines.
    let mut lines: BTreeMap<Vec<Option<usize>>, Vec<&BenchmarkRow>> = BTreeMap::new();
    for row in rows {
        let setting = performance_setting(row);
        let place = |(column, values): &(&str, Vec<String>)| {
            let (_, value) = setting.iter().find(|(known, _)| known == column)?;
            values.iter().position(|known| known == value)
        };
        let mode = modes.iter().position(|mode| *mode == row.quantization);
        let places = differing.iter().map(place).chain([mode]).collect();
        lines.entry(places).or_default().push(row);
    }
    if lines.len() > MOST_LINES {
        return format!(
            "  {} combinations of mode and setting: see the benchmark table\n",
            lines.len()
        );
    }
    let columns: [Column<BenchmarkRow>; 4] = [
        ("tokens/s", |row| row.tokens_per_s),
        ("ms/batch", |row| row.E2EL_ms),
        ("peak GB", |row| row.peak_vram_GB),
        ("tokens/J", |row| row.tokens_per_watt),
    ];
    let headings = differing.iter().map(|(column, _)| *column);
    let mut table = TextTable::new(
        ["mode"]
            .into_iter()
            .chain(headings)
            .chain(["rows"])
            .chain(columns.map(|(heading, _)| heading)),
    );
    for (places, rows) in lines {
        let mode = rows.first().map_or("", |row| &row.quantization);
        let values = places.iter().zip(&differing).map(|(place, (_, values))| {
            place
                .and_then(|place| values.get(place))
                .map_or_else(|| "-".to_owned(), Clone::clone)
        });
        let means = columns.map(|(_, column)| {
            let values: Vec<f64> = rows.iter().filter_map(|row| column(row)).collect();
            number(Summary::of(&values).map(|summary| summary.mean))
        });
        let line = [mode.to_owned()]
            .into_iter()
            .chain(values)
            .chain([rows.len().to_string()])
            .chain(means);
        table.push(line.collect());
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mode: &str, condition: &str, tokens_per_s: f64) -> BenchmarkRow {
        BenchmarkRow {
            quantization: mode.to_owned(),
            condition: condition.to_owned(),
            batch_size: Some(4),
            tokens_per_s: Some(tokens_per_s),
            ..BenchmarkRow::default()
        }
    }

    #[test]
    fn each_mode_has_a_line_in_each_setting() {
        let rows = [
            row("standard", "tok=1024", 30.0),
            row("8bit", "tok=256", 10.0),
            row("8bit", "tok=256", 20.0),
        ];
        let expected = "  mode      condition  rows  tokens/s  ms/batch  peak GB  tokens/J\n  \
                        ----------------------------------------------------------------\n  \
                        8bit        tok=256     2     15.00         -        -         -\n  \
                        standard   tok=1024     1     30.00         -        -         -\n";
        assert_eq!(by_setting(&rows), expected);
        assert_eq!(by_setting(&rows[1..]), "", "one setting");
    }
}
