//! The journal of a results directory: `cells.jsonl`, one [`Record`] a line, in the order in which cells finished.
//!
//! A line is handed to the system in one write and synchronised before [`Journal::append`] returns, so that a process
//! killed at any moment leaves at most one incomplete line, the last.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::record::{RECORD_SCHEMA, Record};
use super::{Cell, ResultsError};
use crate::bounded;

/// Name of the journal in a results directory.
pub const JOURNAL_FILE: &str = "cells.jsonl";

/// The journal, open for appending. One process writes it at a time, which holds what it has read and written: after
/// each cell of a long run the tables are made again without reading the file again.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    latest: LatestRecords,
}

/// The latest record of each cell, cells in the order in which they were first recorded.
#[derive(Debug, Default)]
struct LatestRecords {
    records: Vec<Record>,
    place_of: HashMap<Cell, usize>,
}

impl LatestRecords {
    fn insert(&mut self, record: Record) {
        let place = *self
            .place_of
            .entry(record.cell.clone())
            .or_insert(self.records.len());
        match self.records.get_mut(place) {
            Some(earlier) => *earlier = record,
            None => self.records.push(record),
        }
    }
}

impl Journal {
    /// Opens the journal of `results_dir`, or starts one. An incomplete last line, left by a killed process, is
    /// removed so that the next record does not run into it; a complete one that only lacks its line end keeps it.
    ///
    /// # Errors
    /// [`ResultsError::Io`] when the file cannot be opened or mended; [`ResultsError::CorruptLine`] or
    /// [`ResultsError::OtherSchema`] for a line that is no record, and the file is then as it was.
    pub fn open(results_dir: &Path) -> Result<Self, ResultsError> {
        let path = results_dir.join(JOURNAL_FILE);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(ResultsError::io("open", &path))?;
        let written = bounded::open(&path).map_err(ResultsError::io("read", &path))?;
        let Parsed {
            latest,
            incomplete,
            lacks_line_end,
        } = parse(&path, BufReader::new(written), |_| {})?;
        if let Some((_, start)) = incomplete {
            file.set_len(start as u64)
                .map_err(ResultsError::io("mend", &path))?;
        } else if lacks_line_end {
            file.write_all(b"\n").map_err(ResultsError::io("mend", &path))?;
        }
        Ok(Self { path, file, latest })
    }

    /// The latest record of each cell, cells in the order in which they were first recorded.
    pub fn records(&self) -> &[Record] {
        &self.latest.records
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
        let kept: Record = serde_json::from_slice(&line).map_err(unwritable)?;
        line.push(b'\n');
        let append = |error| ResultsError::io("append to", &self.path)(error);
        let length = self.file.metadata().map_err(append)?.len();
        if let Err(error) = self.file.write_all(&line) {
            // A full disk may have taken half of the line. If even this fails, opening the journal mends it.
            let _ = self.file.set_len(length);
            return Err(append(error));
        }
        self.file.sync_data().map_err(append)?;
        self.latest.insert(kept);
        Ok(())
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
    read_journal_adjusted(results_dir, |_| {})
}

/// The same, with each record going through `adjust` before it is kept: what is not needed of very many need not be in
/// memory at once.
///
/// # Errors
/// Those of [`read_journal`].
pub fn read_journal_adjusted(
    results_dir: &Path,
    adjust: impl FnMut(&mut Record),
) -> Result<JournalContents, ResultsError> {
    match read_file(&results_dir.join(JOURNAL_FILE), adjust) {
        Err(ResultsError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(JournalContents::default())
        }
        contents => contents,
    }
}

/// Reads a journal or a copy of one, whatever its name.
///
/// # Errors
/// Those of [`read_journal`], and [`ResultsError::Io`] when there is no such file.
pub fn read_journal_file(path: &Path) -> Result<JournalContents, ResultsError> {
    read_file(path, |_| {})
}

fn read_file(path: &Path, adjust: impl FnMut(&mut Record)) -> Result<JournalContents, ResultsError> {
    let file = bounded::open(path).map_err(ResultsError::io("read", path))?;
    let Parsed {
        latest, incomplete, ..
    } = parse(path, BufReader::new(file), adjust)?;
    let warnings = incomplete.map(|(line, _)| {
        format!(
            "{}, line {line}: the last line is incomplete (a run was killed while writing) and was left out",
            path.display()
        )
    });
    Ok(JournalContents {
        records: latest.records,
        warnings: warnings.into_iter().collect(),
    })
}

/// What a journal holds.
struct Parsed {
    latest: LatestRecords,
    /// Number and offset of an incomplete last line.
    incomplete: Option<(usize, usize)>,
    /// Whether the last line, complete or not, has no line end.
    lacks_line_end: bool,
}

/// Reads a journal line by line.
fn parse(
    path: &Path,
    mut reader: impl BufRead,
    mut adjust: impl FnMut(&mut Record),
) -> Result<Parsed, ResultsError> {
    let mut parsed = Parsed {
        latest: LatestRecords::default(),
        incomplete: None,
        lacks_line_end: false,
    };
    let mut start = 0;
    let mut line = Vec::new();
    for number in 1.. {
        bounded::read_line(&mut reader, &mut line, bounded::LINE).map_err(ResultsError::io("read", path))?;
        if line.is_empty() {
            break;
        }
        parsed.lacks_line_end = !line.ends_with(b"\n");
        match serde_json::from_slice::<Record>(&line) {
            Ok(mut record) if record.schema == RECORD_SCHEMA => {
                adjust(&mut record);
                parsed.latest.insert(record);
            }
            Ok(record) => {
                return Err(ResultsError::OtherSchema {
                    path: path.to_path_buf(),
                    line: number,
                    found: record.schema,
                    expected: RECORD_SCHEMA,
                });
            }
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) if !line.ends_with(b"\n") => parsed.incomplete = Some((number, start)),
            Err(source) => {
                return Err(ResultsError::CorruptLine {
                    path: path.to_path_buf(),
                    line: number,
                    source,
                });
            }
        }
        start += line.len();
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests;
