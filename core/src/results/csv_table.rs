//! CSV tables read by column name, strict about what they hold.
//!
//! Numbers may be absent: an empty field and the spellings of Python's tools (`nan`, `None`, …) are no value. Anything
//! else that is no number is an error that names the file, the line, the column and the text.

use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ResultsError, write_atomically};
use crate::bounded;

/// Spellings of "no value" in numeric columns, lower case.
const NO_VALUE: [&str; 5] = ["nan", "none", "null", "n/a", "<na>"];

/// Reads the rows of a table and the names of its columns. Columns that `Row` does not know are left out.
///
/// `identifying` columns must be there and filled in each row, `needed` ones be there; columns in `text` keep their
/// fields as they are.
///
/// # Errors
/// Any of [`ResultsError`] that concerns tables.
pub(crate) fn read_table<Row: DeserializeOwned>(
    path: &Path,
    identifying: &[&'static str],
    needed: &[&'static str],
    text: &[&str],
) -> Result<(Vec<Row>, Vec<String>), ResultsError> {
    let bytes = bounded::read(path, bounded::LIST).map_err(ResultsError::io("read", path))?;
    let malformed = |source| ResultsError::Csv {
        path: path.to_path_buf(),
        source,
    };
    let mut reader = ReaderBuilder::new().from_reader(bytes.as_slice());
    let headers: StringRecord = reader
        .headers()
        .map_err(malformed)?
        .iter()
        .map(str::trim)
        .collect();
    let columns: Vec<String> = headers.iter().map(str::to_owned).collect();
    for &column in identifying.iter().chain(needed) {
        if !columns.iter().any(|name| name == column) {
            return Err(ResultsError::MissingColumn {
                path: path.to_path_buf(),
                column,
                found: columns,
            });
        }
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(malformed)?;
        let line = record.position().map_or(0, csv::Position::line);
        let cleaned: StringRecord = headers
            .iter()
            .zip(&record)
            .map(|(column, field)| {
                if text.contains(&column) {
                    field.trim()
                } else {
                    clean_number(field)
                }
            })
            .collect();
        for &column in identifying {
            if headers
                .iter()
                .zip(&cleaned)
                .any(|(name, field)| name == column && field.is_empty())
            {
                return Err(ResultsError::EmptyField {
                    path: path.to_path_buf(),
                    line,
                    column,
                });
            }
        }
        rows.push(
            cleaned
                .deserialize(Some(&headers))
                .map_err(|error| match error.kind() {
                    ErrorKind::Deserialize { err, .. } => {
                        let field = err.field().map_or(usize::MAX, |field| field as usize);
                        ResultsError::NotANumber {
                            path: path.to_path_buf(),
                            line,
                            column: headers.get(field).unwrap_or("?").to_owned(),
                            value: record.get(field).unwrap_or("?").to_owned(),
                        }
                    }
                    _ => ResultsError::Csv {
                        path: path.to_path_buf(),
                        source: error,
                    },
                })?,
        );
    }
    Ok((rows, columns))
}

/// The field without blanks, empty when it says "no value", and without the `.0` that pandas gives to counts.
fn clean_number(field: &str) -> &str {
    let field = field.trim();
    if NO_VALUE.contains(&field.to_ascii_lowercase().as_str()) {
        return "";
    }
    match field.strip_suffix(".0") {
        Some(whole) if whole.parse::<i64>().is_ok() => whole,
        _ => field,
    }
}

/// The columns of `Row` in their order.
fn headers<Row: Serialize + Default>() -> Result<Vec<String>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.serialize(Row::default())?;
    let bytes = writer
        .into_inner()
        .map_err(|error| csv::Error::from(error.into_error()))?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    Ok(reader.headers()?.iter().map(str::to_owned).collect())
}

/// Writes a table with its header, also when it has no rows.
///
/// # Errors
/// [`ResultsError::Io`] when the file cannot be written; it is then as it was before.
pub(super) fn write_table<Row: Serialize + Default>(path: &Path, rows: &[Row]) -> Result<(), ResultsError> {
    write_atomically(path, |file| {
        let mut writer = csv::Writer::from_writer(file);
        for row in rows {
            writer.serialize(row).map_err(std::io::Error::other)?;
        }
        if rows.is_empty() {
            writer
                .write_record(headers::<Row>().map_err(std::io::Error::other)?)
                .map_err(std::io::Error::other)?;
        }
        writer.flush()
    })
}
