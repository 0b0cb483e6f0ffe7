use std::io::BufRead;
use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord, Trim};

use super::DataError;
use super::dataset::Sequences;

/// The delimiter of a table, by the file's name, else by its first line (`start` is the beginning of the file).
/// `None`: this is no table.
pub(super) fn delimiter(path: &Path, start: &[u8]) -> Option<u8> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("csv") => Some(b','),
        Some("tsv" | "tab") => Some(b'\t'),
        _ => {
            let header = std::str::from_utf8(start.split(|&byte| byte == b'\n').next()?)
                .ok()?
                .trim();
            let is_text = header
                .chars()
                .all(|letter| letter == '\t' || !letter.is_control());
            [b'\t', b',']
                .into_iter()
                .find(|&delimiter| is_text && header.contains(char::from(delimiter)))
        }
    }
}

/// Reads a decompressed table.
pub(super) fn read(
    reader: impl BufRead,
    delimiter: u8,
    sequences: &mut Sequences<'_>,
) -> Result<(), DataError> {
    let path = sequences.path;
    let mut table = ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(Trim::All)
        .from_reader(reader);
    let header = table.headers().map_err(|error| table_error(path, error))?.clone();
    let column = |name: &str| header.iter().position(|found| found == name);
    let (Some(genome), Some(bases)) = (column("genome_id"), column("seq")) else {
        let missing = ["genome_id", "seq"]
            .into_iter()
            .filter(|name| column(name).is_none());
        return Err(DataError::MissingColumns {
            path: path.to_owned(),
            missing: missing.map(str::to_owned).collect(),
            found: header.iter().map(str::to_owned).collect(),
        });
    };
    let fragment = column("fragment_id");

    let mut row = StringRecord::new();
    while table
        .read_record(&mut row)
        .map_err(|error| table_error(path, error))?
    {
        let line = row.position().map_or(0, csv::Position::line);
        let fragment_id = match fragment {
            Some(column) => row[column].to_owned(),
            None => sequences.len().to_string(),
        };
        sequences.push(&row[genome], fragment_id, row[bases].as_bytes(), line)?;
    }
    Ok(())
}

/// The row's line where its number of fields is wrong; a failing disk or a broken gzip stream as such.
fn table_error(path: &Path, error: csv::Error) -> DataError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => DataError::FieldCount {
            path,
            line: pos.as_ref().map_or(0, csv::Position::line),
            expected: *expected_len,
            found: *len,
        },
        ErrorKind::Io(_) => match error.into_kind() {
            ErrorKind::Io(source) => DataError::Io { path, source },
            _ => unreachable!("the kind was just seen"),
        },
        _ => DataError::Table { path, source: error },
    }
}
