//! The journal of a results directory: `cells.jsonl`, one [`Record`] a line, in the order in which cells finished.
//!
//! A line is handed to the system in one write and synchronised before [`Journal::append`] returns, so that a process
//! killed at any moment leaves at most one incomplete line, the last.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::record::{RECORD_SCHEMA, Record};
use super::{Cell, ResultsError};

/// Name of the journal in a results directory.
pub const JOURNAL_FILE: &str = "cells.jsonl";

/// The journal, open for appending. One process writes it at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal of `results_dir`, or starts one. An incomplete last line, left by a killed process, is
    /// removed so that the next record does not run into it; a complete one that only lacks its line end keeps it.
    ///
    /// # Errors
    /// [`ResultsError::Io`] when the file cannot be opened or mended.
    pub fn open(results_dir: &Path) -> Result<Self, ResultsError> {
        let path = results_dir.join(JOURNAL_FILE);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(ResultsError::io("open", &path))?;
        let bytes = std::fs::read(&path).map_err(ResultsError::io("read", &path))?;
        let complete = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let (_, tail) = bytes.split_at(complete);
        if serde_json::from_slice::<Record>(tail).is_ok() {
            file.write_all(b"\n").map_err(ResultsError::io("mend", &path))?;
        } else if !tail.is_empty() {
            file.set_len(complete as u64)
                .map_err(ResultsError::io("mend", &path))?;
        }
        Ok(Self { path, file })
    }

    /// Appends one record and waits until it is on disk.
    ///
    /// # Errors
    /// [`ResultsError::Unwritable`] for a record that JSON cannot hold (an infinite time, say): nothing is written
    /// then. [`ResultsError::Io`] when the write fails.
    pub fn append(&mut self, record: &Record) -> Result<(), ResultsError> {
        let unwritable = |source| ResultsError::Unwritable {
            path: self.path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(record).map_err(unwritable)?;
        // A number that is not finite is written as `null`, which would make the journal unreadable from here on.
        serde_json::from_slice::<Record>(&line).map_err(unwritable)?;
        line.push(b'\n');
        let append = |error| ResultsError::io("append to", &self.path)(error);
        let length = self.file.metadata().map_err(append)?.len();
        if let Err(error) = self.file.write_all(&line) {
            // A full disk may have taken half of the line. If even this fails, opening the journal mends it.
            let _ = self.file.set_len(length);
            return Err(append(error));
        }
        self.file.sync_data().map_err(append)
    }
}

/// What a journal holds.
#[derive(Debug, Default)]
pub struct JournalContents {
    /// The latest record of each cell, cells in the order in which they were first recorded.
    pub records: Vec<Record>,
    /// Doubts about the file itself.
    pub warnings: Vec<String>,
}

/// Reads the journal of `results_dir`; a directory without one has no records.
///
/// # Errors
/// [`ResultsError::Io`] when it cannot be read; [`ResultsError::CorruptLine`] or [`ResultsError::OtherSchema`] for a
/// line that is no record, save a last line without a line end, which becomes a warning.
pub fn read_journal(results_dir: &Path) -> Result<JournalContents, ResultsError> {
    let path = results_dir.join(JOURNAL_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(JournalContents::default()),
        Err(error) => return Err(ResultsError::io("read", &path)(error)),
    };
    let mut contents = JournalContents::default();
    let mut place_of: HashMap<Cell, usize> = HashMap::new();
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record: Record = match serde_json::from_slice(line) {
            Ok(record) => record,
            Err(_) if !line.ends_with(b"\n") => {
                contents.warnings.push(format!(
                    "{}, line {number}: the last line is incomplete (a run was killed while writing) and was left out",
                    path.display()
                ));
                continue;
            }
            Err(source) => {
                return Err(ResultsError::CorruptLine {
                    path,
                    line: number,
                    source,
                });
            }
        };
        if record.schema != RECORD_SCHEMA {
            let found = record.schema;
            return Err(ResultsError::OtherSchema {
                path,
                line: number,
                found,
                expected: RECORD_SCHEMA,
            });
        }
        let place = *place_of
            .entry(record.cell.clone())
            .or_insert(contents.records.len());
        match contents.records.get_mut(place) {
            Some(earlier) => *earlier = record,
            None => contents.records.push(record),
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests;
