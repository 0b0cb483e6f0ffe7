//! Tables about layers, parts and biology. A cell that failed is one row with its status and reason.

mod biology;
mod layers;
mod sensitivity;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::csv_table::write_table;
use super::{CellKind, Record, ResultsError, write_atomically};
use biology::{binning_row, point_rows, reverse_complement_row, score_rows, variant_row};
use layers::layer_rows;

pub use biology::{BinningPointRow, BinningRow, ReverseComplementRow, VariantRow, VariantScoreRow};
pub use layers::LayerRow;
pub use sensitivity::{SensitivityRow, sensitivity_rows};

/// Name of the table of hidden states.
pub const LAYER_FILE: &str = "layer_metrics.csv";
/// Name of the table of parts quantised one at a time.
pub const SENSITIVITY_FILE: &str = "sensitivity.csv";
/// Name of the table of reverse-complement consistency.
pub const REVERSE_COMPLEMENT_FILE: &str = "reverse_complement.csv";
/// Name of the table of agreement on variants.
pub const VARIANT_FILE: &str = "variant_effects.csv";
/// Name of the table of all variants.
pub const VARIANT_SCORE_FILE: &str = "variant_scores.csv";
/// Name of the table of binning.
pub const BINNING_FILE: &str = "binning.csv";
/// Name of the table of binned fragments.
pub const BINNING_POINT_FILE: &str = "binning_points.csv";
/// Name of the file with everything about quality.
pub const QUALITY_JSON_FILE: &str = "quality.json";

/// Id of the format of [`QUALITY_JSON_FILE`].
const QUALITY_JSON_SCHEMA: &str = "qbench.quality/1";

/// The columns that end every row: what was measured, and how the cell ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns, as in the quality table")]
pub struct CellColumns {
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub condition: String,
    pub status: String,
    pub reason: String,
}

impl CellColumns {
    fn new(record: &Record) -> Self {
        let cell = &record.cell;
        Self {
            model: cell.model.clone(),
            backend: cell.backend.clone(),
            device: cell.device.clone(),
            precision: cell.precision.clone(),
            condition: cell.condition.clone(),
            status: record.status.as_str().to_owned(),
            reason: record.reason.clone(),
        }
    }
}

/// A row and the columns that end it.
type Whole<Row> = (Row, CellColumns);

/// Writes the tables for which there are cells, and all records about quality as one JSON file, and returns the paths.
///
/// # Errors
/// [`ResultsError::Io`] when the directory cannot be written.
pub fn write_evaluation_tables(directory: &Path, records: &[Record]) -> Result<Vec<PathBuf>, ResultsError> {
    let mut files = Vec::new();
    write(directory, LAYER_FILE, &layer_rows(records), &mut files)?;
    write(
        directory,
        SENSITIVITY_FILE,
        &sensitivity_rows(records),
        &mut files,
    )?;
    let strands = one_each(records, CellKind::ReverseComplement, reverse_complement_row);
    write(directory, REVERSE_COMPLEMENT_FILE, &strands, &mut files)?;
    let variants = one_each(records, CellKind::Variants, variant_row);
    write(directory, VARIANT_FILE, &variants, &mut files)?;
    write(directory, VARIANT_SCORE_FILE, &score_rows(records), &mut files)?;
    let binning = one_each(records, CellKind::Binning, binning_row);
    write(directory, BINNING_FILE, &binning, &mut files)?;
    write(directory, BINNING_POINT_FILE, &point_rows(records), &mut files)?;
    let quality: Vec<&Record> = records
        .iter()
        .filter(|record| record.cell.kind != CellKind::Performance)
        .collect();
    if !quality.is_empty() {
        let path = directory.join(QUALITY_JSON_FILE);
        let document = json!({ "schema": QUALITY_JSON_SCHEMA, "cells": quality });
        write_atomically(&path, |file| {
            serde_json::to_writer(&mut *file, &document)?;
            file.write_all(b"\n")
        })?;
        files.push(path);
    }
    Ok(files)
}

fn write<Row: Serialize + Default>(
    directory: &Path,
    name: &str,
    rows: &[Row],
    files: &mut Vec<PathBuf>,
) -> Result<(), ResultsError> {
    if !rows.is_empty() {
        let path = directory.join(name);
        write_table(&path, rows)?;
        files.push(path);
    }
    Ok(())
}

fn of_kind(records: &[Record], kind: CellKind) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |record| record.cell.kind == kind)
}

fn one_each<Row>(records: &[Record], kind: CellKind, row: impl Fn(&Record) -> Row) -> Vec<Whole<Row>> {
    of_kind(records, kind)
        .map(|record| (row(record), CellColumns::new(record)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Status;
    use crate::results::test_records::quality_record;

    #[test]
    fn failed_cells_are_rows_and_nothing_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(write_evaluation_tables(directory.path(), &[]).unwrap().len(), 0);
        let mut record = quality_record("8bit");
        record.quality = None;
        record.status = Status::Error;
        "no room".clone_into(&mut record.reason);
        for kind in [
            CellKind::Layers,
            CellKind::ReverseComplement,
            CellKind::Variants,
            CellKind::Binning,
        ] {
            record.cell.kind = kind;
            let files = write_evaluation_tables(directory.path(), std::slice::from_ref(&record)).unwrap();
            assert_eq!(files.len(), 2, "a table and the JSON file");
            let text = std::fs::read_to_string(&files[0]).unwrap();
            assert!(text.lines().nth(1).unwrap().starts_with("8bit,,"), "{text}");
            assert!(text.trim_end().ends_with("error,no room"), "{text}");
        }
    }
}
