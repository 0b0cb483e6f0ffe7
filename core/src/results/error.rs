//! What can go wrong with files of results.

use std::io;
use std::path::{Path, PathBuf};

/// A fault in a file of results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the journal that is no record.
    #[error(
        "{}, line {line}: no record of a cell: {source}; every line but a half-written last one must be one \
         JSON record; remove the line to go on without it",
        path.display()
    )]
    CorruptLine {
        /// The journal.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A line of the journal in another format.
    #[error("{}, line {line}: the record has format `{found}`, expected `{expected}`", path.display())]
    OtherSchema {
        /// The journal.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The format that the line names.
        found: String,
        /// The format of this program.
        expected: &'static str,
    },
    /// A record that JSON cannot hold.
    #[error("the record for {} cannot be written as JSON: {source}", path.display())]
    Unwritable {
        /// The file it was meant for.
        path: PathBuf,
        /// What the serialiser said.
        source: serde_json::Error,
    },
    /// A table without a column that is needed.
    #[error(
        "{}: column `{column}` is missing; columns found: {}",
        path.display(),
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    )]
    MissingColumn {
        /// The table.
        path: PathBuf,
        /// The column that is needed.
        column: &'static str,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A field that should be a number and is not.
    #[error("{}, line {line}: column `{column}` holds `{value}`, expected a number or nothing", path.display())]
    NotANumber {
        /// The table.
        path: PathBuf,
        /// Line of the file, from 1.
        line: u64,
        /// The column.
        column: String,
        /// The text found there.
        value: String,
    },
    /// A row of a table without the text that says what it is about.
    #[error("{}, line {line}: column `{column}` is empty", path.display())]
    EmptyField {
        /// The table.
        path: PathBuf,
        /// Line of the file, from 1.
        line: u64,
        /// The column.
        column: &'static str,
    },
    /// A table that is no well-formed CSV.
    #[error("{}: not a well-formed CSV table: {source}", path.display())]
    Csv {
        /// The table.
        path: PathBuf,
        /// What the reader said, with the line.
        source: csv::Error,
    },
    /// A time stamp that cannot be part of a file's name.
    #[error("`{timestamp}` cannot be part of a file name; expected letters, digits, `-` and `_` only")]
    Timestamp {
        /// The time stamp.
        timestamp: String,
    },
}

impl ResultsError {
    /// For `map_err` on a file system call.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
