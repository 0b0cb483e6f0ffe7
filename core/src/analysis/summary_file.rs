//! Reading a `quant_summary.csv`, whichever program wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};

use crate::bounded;
use crate::results::ResultsError;

/// One mode of a summary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SummaryRow {
    /// The mode.
    pub quantization: String,
    /// The values by metric and statistic (`mean`, `std`, `min`, `max`); what is empty in the file is not there.
    pub values: BTreeMap<(String, String), f64>,
}

const STATISTICS: [&str; 4] = ["mean", "std", "min", "max"];

/// Reads a summary with one header line `quantization,metric_stat,…` (ours), or with the two that pandas writes
/// (metric, then statistic, then a line with the index's name), or with plain metric names, which are means.
///
/// # Errors
/// [`ResultsError::MissingColumn`] when neither form has a `quantization`, [`ResultsError::NotANumber`], and
/// [`ResultsError::Io`] or [`ResultsError::Csv`] when the file cannot be read as a table.
pub fn read_quant_summary(path: &Path) -> Result<Vec<SummaryRow>, ResultsError> {
    let bytes = bounded::read(path, bounded::LIST).map_err(ResultsError::io("read", path))?;
    let lines: Vec<StringRecord> = ReaderBuilder::new()
        .has_headers(false)
        .from_reader(bytes.as_slice())
        .records()
        .collect::<Result<_, _>>()
        .map_err(|source| ResultsError::Csv {
            path: path.to_path_buf(),
            source,
        })?;
    let first = |line: &StringRecord| line.get(0).unwrap_or_default().trim().to_owned();
    let (columns, rows): (Vec<(String, String)>, &[StringRecord]) = match lines.as_slice() {
        [header, rows @ ..] if first(header) == "quantization" => {
            (header.iter().skip(1).map(split_name).collect(), rows)
        }
        [metrics, statistics, index, rows @ ..] if first(index) == "quantization" => {
            let pairs = metrics.iter().zip(statistics).skip(1);
            (
                pairs
                    .map(|(metric, statistic)| (metric.to_owned(), statistic.to_owned()))
                    .collect(),
                rows,
            )
        }
        lines => {
            let found = lines
                .first()
                .map(|line| line.iter().map(str::to_owned).collect())
                .unwrap_or_default();
            return Err(ResultsError::MissingColumn {
                path: path.to_path_buf(),
                column: "quantization",
                found,
            });
        }
    };
    rows.iter().map(|row| summary_row(path, &columns, row)).collect()
}

fn split_name(name: &str) -> (String, String) {
    match name.rsplit_once('_') {
        Some((metric, statistic)) if STATISTICS.contains(&statistic) => {
            (metric.to_owned(), statistic.to_owned())
        }
        _ => (name.to_owned(), "mean".to_owned()),
    }
}

fn summary_row(
    path: &Path,
    columns: &[(String, String)],
    row: &StringRecord,
) -> Result<SummaryRow, ResultsError> {
    let mut summary = SummaryRow {
        quantization: row.get(0).unwrap_or_default().to_owned(),
        ..SummaryRow::default()
    };
    for (column, field) in columns.iter().zip(row.iter().skip(1)) {
        if field.trim().is_empty() {
            continue;
        }
        let value = field.trim().parse().map_err(|_| ResultsError::NotANumber {
            path: path.to_path_buf(),
            line: row.position().map_or(0, csv::Position::line),
            column: format!("{}_{}", column.0, column.1),
            value: field.to_owned(),
        })?;
        summary.values.insert(column.clone(), value);
    }
    Ok(summary)
}
