//! Merging the journals of many tasks into one.

use std::io::Write;
use std::path::Path;

use super::outcome::{CellState, Line, Read, TaskFiles};
use crate::results::{BenchmarkRow, Cell, Record, ResultsError, Status, write_atomically};

/// More warnings than this are counted, not kept.
const WARNINGS: usize = 50;

/// What a merge found.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Cells of the plan.
    pub expected: usize,
    /// Those with numbers.
    pub done: usize,
    /// Those that failed or have no record.
    pub unfinished: Vec<Unfinished>,
    /// Records of cells that an earlier attempt had measured already; they were left out.
    pub repeated: usize,
    /// Rows of the benchmark table.
    pub rows: Vec<BenchmarkRow>,
    /// Doubts about the files.
    pub warnings: Vec<String>,
    unnamed_warnings: usize,
}

/// A cell without numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The task that it belongs to.
    pub task: usize,
    /// The cell.
    pub cell: Cell,
    /// How far it has come.
    pub state: CellState,
}

impl Merged {
    /// Whether every cell has a record, be it one that says why there are no numbers.
    pub fn is_complete(&self) -> bool {
        self.missing() == 0
    }

    /// Cells without any record.
    pub fn missing(&self) -> usize {
        let missing = |unfinished: &&Unfinished| unfinished.state == CellState::Missing;
        self.unfinished.iter().filter(missing).count()
    }

    /// The warnings, with a word on those that were too many to name.
    pub fn all_warnings(&self) -> Vec<String> {
        let mut all = self.warnings.clone();
        if self.unnamed_warnings > 0 {
            all.push(format!("{} more of these", self.unnamed_warnings));
        }
        all
    }

    fn warn(&mut self, warnings: Vec<String>) {
        for warning in warnings {
            if self.warnings.len() < WARNINGS {
                self.warnings.push(warning);
            } else {
                self.unnamed_warnings += 1;
            }
        }
    }
}

/// Writes the record that counts of every cell to the journal at `path`, in the order of the tasks and their cells; the
/// journal appears whole or not at all. One task is in memory at a time, besides the rows of the benchmark table.
///
/// # Errors
/// [`ResultsError::Io`] for a file that cannot be read or written; those of `tasks`.
pub fn merge(
    path: &Path,
    tasks: impl Iterator<Item = Result<TaskFiles, ResultsError>>,
) -> Result<Merged, ResultsError> {
    let mut merged = Merged::default();
    let mut fault = None;
    let written = write_atomically(path, |file| {
        for task in tasks {
            match task.and_then(|task| Ok((task.read::<Record>()?, task))) {
                Ok((read, task)) => take(&mut merged, file, task, read)?,
                Err(error) => {
                    fault = Some(error);
                    return Err(std::io::Error::other("a task cannot be read"));
                }
            }
        }
        Ok(())
    });
    match fault {
        Some(fault) => Err(fault),
        None => written.map(|()| merged),
    }
}

fn take(
    merged: &mut Merged,
    file: &mut dyn Write,
    task: TaskFiles,
    read: Read<Record>,
) -> std::io::Result<()> {
    merged.repeated += read.repeated;
    merged.warn(read.warnings);
    for (cell, chosen) in task.cells.into_iter().zip(read.chosen) {
        merged.expected += 1;
        if let Some(chosen) = &chosen {
            file.write_all(&chosen.line)?;
            file.write_all(b"\n")?;
            merged.rows.extend(BenchmarkRow::from_record(&chosen.record));
        }
        let state = match chosen.map(|chosen| chosen.record) {
            Some(record) if record.status() == Status::Ok => {
                merged.done += 1;
                continue;
            }
            Some(record) => CellState::Failed(record.status, record.reason),
            None => CellState::Missing,
        };
        merged.unfinished.push(Unfinished {
            task: task.task,
            cell,
            state,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::results::read_journal_file;
    use crate::results::test_records::{performance_record, quality_record};

    #[test]
    fn a_merged_journal_has_every_cell_once_in_the_order_of_the_plan() {
        let directory = tempfile::tempdir().unwrap();
        let records = [
            performance_record("standard", 0),
            quality_record("8bit"),
            performance_record("8bit", 0),
        ];
        let mut lines: Vec<String> = records
            .iter()
            .map(|record| serde_json::to_string(record).unwrap() + "\n")
            .collect();
        lines.reverse();
        fs::write(directory.path().join("a"), lines.concat()).unwrap();
        fs::write(directory.path().join("b"), &lines[0]).unwrap();
        let task = |task, cells: &[Record], names: &[&str]| {
            Ok(TaskFiles {
                task,
                cells: cells.iter().map(|record| record.cell.clone()).collect(),
                journals: names.iter().map(|name| directory.path().join(name)).collect(),
            })
        };
        let other = performance_record("4bit_nf4", 0);
        let tasks = [
            task(0, &records, &["a", "b"]),
            task(1, std::slice::from_ref(&other), &["c"]),
        ];
        let path = directory.path().join("cells.jsonl");
        let merged = merge(&path, tasks.into_iter()).unwrap();
        assert_eq!(
            (merged.expected, merged.done, merged.repeated, merged.rows.len()),
            (4, 3, 1, 2)
        );
        assert!(!merged.is_complete());
        assert_eq!(
            (merged.unfinished[0].task, &merged.unfinished[0].cell),
            (1, &other.cell)
        );
        let read = read_journal_file(&path).unwrap();
        let cells = |records: &[Record]| {
            records
                .iter()
                .map(|record| record.cell.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(cells(&read.records), cells(&records));
    }

    #[test]
    fn a_task_that_cannot_be_read_leaves_the_journal_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cells.jsonl");
        fs::write(&path, "before").unwrap();
        let unreadable = TaskFiles {
            task: 0,
            cells: Vec::new(),
            // A directory cannot be read as a file.
            journals: vec![directory.path().to_path_buf()],
        };
        assert!(matches!(
            merge(&path, [Ok(unreadable)].into_iter()),
            Err(ResultsError::Io { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    }
}
