use std::io;
use std::path::PathBuf;

/// Why a data file cannot be used. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file is not there, not readable, or its compression is broken.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither FASTA nor a table.
    #[error(
        "`{}` is in no known format; expected FASTA (begins with `>`) or a CSV or TSV table with the columns \
         `genome_id` and `seq` in its first line, plain or gzip",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The table lacks columns.
    #[error(
        "`{}` has no column {}; found {}",
        path.display(),
        quoted(missing, " and "),
        quoted(found, ", ")
    )]
    MissingColumns {
        /// The file.
        path: PathBuf,
        /// The columns that are needed and absent.
        missing: Vec<String>,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A row is longer or shorter than the table's first line.
    #[error("`{}`, line {line}: {found} fields where the header has {expected}", path.display())]
    FieldCount {
        /// The file.
        path: PathBuf,
        /// The line on which the row begins, from 1.
        line: u64,
        /// Fields in the header.
        expected: u64,
        /// Fields in the row.
        found: u64,
    },
    /// The table cannot be parsed.
    #[error("cannot parse `{}`", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What the CSV parser said, with the line.
        source: csv::Error,
    },
    /// The FASTA file cannot be parsed.
    #[error("cannot parse `{}` as FASTA", path.display())]
    Fasta {
        /// The file.
        path: PathBuf,
        /// What the FASTA parser said, with the line.
        source: needletail::errors::ParseError,
    },
    /// There is nothing in the file.
    #[error("`{}` holds no sequence", path.display())]
    NoSequences {
        /// The file.
        path: PathBuf,
    },
    /// A record does not say which genome it is from.
    #[error("`{}`, {record}: the genome's name is empty", path.display())]
    UnnamedGenome {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
    },
    /// A record without any `A C G T`.
    #[error(
        "`{}`, {record}: no base is known ({length} letters, none of A C G T U); remove the record",
        path.display()
    )]
    NoKnownBase {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
        /// Its length; 0 where the sequence is missing.
        length: usize,
    },
    /// A letter that stands for no nucleotide.
    #[error(
        "`{}`, {record}: `{}` at position {position} is no nucleotide; expected A C G T U N or an IUPAC code \
         (R Y S W K M B D H V)",
        path.display(),
        letter.escape_ascii()
    )]
    NotNucleotide {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
        /// The byte that was found.
        letter: u8,
        /// Where, from 1.
        position: usize,
    },
}

/// The names in backquotes; long lists and long names (a file that is no table) are cut short.
fn quoted(names: &[String], separator: &str) -> String {
    const NAMES: usize = 20;
    const LETTERS: usize = 40;
    let mut parts: Vec<String> = names
        .iter()
        .take(NAMES)
        .map(|name| {
            let cut: String = name.chars().take(LETTERS).collect();
            format!("`{}`", cut.escape_debug())
        })
        .collect();
    if names.len() > NAMES {
        parts.push(format!("{} more", names.len() - NAMES));
    }
    parts.join(separator)
}
