//! What the attempts at a task have left behind.
//!
//! Every attempt writes a journal of its own, so that no two processes ever write one file, be it that a node is
//! thought dead and goes on. Journals are read with patience: a line that is no record is passed over with a warning,
//! and its cell counts as not measured.

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bounded;
use crate::results::{Cell, RECORD_SCHEMA, Record, ResultsError, Status};

/// A task: its cells, and the journals of the attempts at it, the first attempt first.
#[derive(Clone, Debug)]
pub struct TaskFiles {
    /// The task's number.
    pub task: usize,
    /// The cells that it is to measure.
    pub cells: Vec<Cell>,
    /// Journals; those that do not exist are passed over.
    pub journals: Vec<PathBuf>,
}

/// How far a cell has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellState {
    /// It has its numbers.
    Done,
    /// Every attempt failed; how the last one ended, and why.
    Failed(Status, String),
    /// No attempt has left a record.
    Missing,
}

/// How far a task has come.
#[derive(Clone, Debug)]
pub struct TaskOutcome {
    /// A state for each cell, in their order.
    pub cells: Vec<CellState>,
    /// Doubts about the files.
    pub warnings: Vec<String>,
}

/// The part of a record that tells how its cell ended; the numbers are passed over.
#[derive(Deserialize)]
struct Head {
    schema: String,
    cell: Cell,
    status: Status,
    #[serde(default)]
    reason: String,
}

/// A line of a journal.
pub(super) trait Line: DeserializeOwned {
    fn schema(&self) -> &str;
    fn cell(&self) -> &Cell;
    fn status(&self) -> Status;
}

impl Line for Head {
    fn schema(&self) -> &str {
        &self.schema
    }

    fn cell(&self) -> &Cell {
        &self.cell
    }

    fn status(&self) -> Status {
        self.status
    }
}

impl Line for Record {
    fn schema(&self) -> &str {
        &self.schema
    }

    fn cell(&self) -> &Cell {
        &self.cell
    }

    fn status(&self) -> Status {
        self.status
    }
}

/// The record of a cell that counts, with its line.
pub(super) struct Chosen<L> {
    pub(super) line: Vec<u8>,
    pub(super) record: L,
}

/// What is known of a task.
pub(super) struct Read<L> {
    /// For each cell the first record with numbers, else the last without.
    pub(super) chosen: Vec<Option<Chosen<L>>>,
    /// Cells that more than one attempt measured.
    pub(super) repeated: usize,
    pub(super) warnings: Vec<String>,
}

impl TaskFiles {
    /// How far the task has come.
    ///
    /// # Errors
    /// [`ResultsError::Io`] for a journal that is there and cannot be read.
    pub fn outcome(&self) -> Result<TaskOutcome, ResultsError> {
        let Read { chosen, warnings, .. } = self.read::<Head>()?;
        let state = |chosen: Option<Chosen<Head>>| match chosen.map(|chosen| chosen.record) {
            None => CellState::Missing,
            Some(head) if head.status == Status::Ok => CellState::Done,
            Some(head) => CellState::Failed(head.status, head.reason),
        };
        Ok(TaskOutcome {
            cells: chosen.into_iter().map(state).collect(),
            warnings,
        })
    }

    pub(super) fn read<L: Line>(&self) -> Result<Read<L>, ResultsError> {
        let place: HashMap<&Cell, usize> = self.cells.iter().zip(0..).collect();
        let mut read = Read {
            chosen: std::iter::repeat_with(|| None).take(self.cells.len()).collect(),
            repeated: 0,
            warnings: Vec::new(),
        };
        let mut foreign = 0;
        for journal in &self.journals {
            each_line::<L>(journal, &mut read.warnings, |line, record| {
                let Some(&place) = place.get(record.cell()) else {
                    foreign += 1;
                    return;
                };
                let known = &mut read.chosen[place];
                let done = |record: &L| record.status() == Status::Ok;
                if known.as_ref().is_some_and(|known| done(&known.record)) {
                    read.repeated += usize::from(done(&record));
                } else {
                    let line = line.to_vec();
                    *known = Some(Chosen { line, record });
                }
            })?;
        }
        if foreign > 0 {
            let task = self.task;
            read.warnings.push(format!(
                "task {task}: {foreign} record(s) of cells that are not the task's were left out"
            ));
        }
        Ok(read)
    }
}

/// The cells that have their numbers in one of `journals`.
///
/// # Errors
/// [`ResultsError::Io`] for a journal that is there and cannot be read.
pub fn finished_cells(journals: &[PathBuf]) -> Result<HashSet<Cell>, ResultsError> {
    let mut finished = HashSet::new();
    for journal in journals {
        each_line::<Head>(journal, &mut Vec::new(), |_, head| {
            if head.status == Status::Ok {
                finished.insert(head.cell);
            }
        })?;
    }
    Ok(finished)
}

/// Hands on every line of a journal that is a record, one at a time.
fn each_line<L: Line>(
    path: &Path,
    warnings: &mut Vec<String>,
    mut take: impl FnMut(&[u8], L),
) -> Result<(), ResultsError> {
    let file = match bounded::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ResultsError::io("open", path)(error)),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        match bounded::read_line(&mut reader, &mut line, bounded::LINE) {
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                warnings.push(format!(
                    "{}, line {number}: {error}; it was left out, with what follows",
                    path.display()
                ));
                break;
            }
            read => read.map_err(ResultsError::io("read", path))?,
        }
        if line.is_empty() {
            break;
        }
        let text = line.trim_ascii();
        match serde_json::from_slice::<L>(text) {
            Ok(record) if record.schema() == RECORD_SCHEMA => take(text, record),
            _ if text.is_empty() => {}
            Ok(record) => warnings.push(format!(
                "{}, line {number}: a record of format `{}`, expected `{RECORD_SCHEMA}`; it was left out",
                path.display(),
                record.schema()
            )),
            // Cut short by a kill in the middle of a write, as can happen at any time.
            Err(_) if !line.ends_with(b"\n") => {}
            Err(error) => warnings.push(format!(
                "{}, line {number}: no record of a cell ({error}); it was left out",
                path.display()
            )),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::results::test_records::performance_record;

    fn line(mode: &str, status: Status) -> String {
        let record = Record {
            status,
            reason: "because".to_owned(),
            ..performance_record(mode, 0)
        };
        serde_json::to_string(&record).unwrap()
    }

    #[test]
    fn the_first_record_with_numbers_counts_and_bad_lines_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let journal = |attempt: usize, text: &str| {
            let path = directory.path().join(attempt.to_string());
            fs::write(&path, text).unwrap();
            path
        };
        let first = format!(
            "{}\n{{broken\n{}\n{}",
            line("a", Status::Ok),
            line("b", Status::TimedOut),
            &line("c", Status::Ok)[..40]
        );
        let second = format!(
            "{}\n{}\n{}\n",
            line("a", Status::Ok),
            line("b", Status::Crashed),
            line("foreign", Status::Ok)
        );
        let journals = vec![
            journal(1, &first),
            journal(2, &second),
            directory.path().join("absent"),
        ];
        let task = TaskFiles {
            task: 7,
            cells: ["a", "b", "c"]
                .map(|mode| performance_record(mode, 0).cell)
                .to_vec(),
            journals: journals.clone(),
        };
        let outcome = task.outcome().unwrap();
        let failed = CellState::Failed(Status::Crashed, "because".to_owned());
        assert_eq!(outcome.cells, [CellState::Done, failed, CellState::Missing]);
        let warnings = outcome.warnings.join("\n");
        assert!(warnings.contains("1, line 2: no record of a cell"), "{warnings}");
        assert!(warnings.contains("task 7: 1 record(s)"), "{warnings}");
        assert_eq!(outcome.warnings.len(), 2, "{warnings}");
        assert_eq!(task.read::<Head>().unwrap().repeated, 1);
        assert_eq!(finished_cells(&journals).unwrap().len(), 2);
    }
}
