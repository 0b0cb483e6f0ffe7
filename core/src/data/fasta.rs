use std::io::{self, BufRead};
use std::path::Path;

use needletail::errors::{ParseError, ParseErrorKind};
use needletail::parser::{FastaReader, FastxReader};

use super::DataError;
use super::dataset::Sequences;

/// Reads decompressed FASTA.
pub(super) fn read(reader: impl BufRead + Send, sequences: &mut Sequences<'_>) -> Result<(), DataError> {
    let mut parser = FastaReader::new(reader);
    while let Some(record) = parser.next() {
        let record = record.map_err(|error| fasta_error(sequences.path, error))?;
        let header = String::from_utf8_lossy(record.id());
        let genome_id = header.split_whitespace().next().unwrap_or_default();
        let fragment_id = sequences.len().to_string();
        sequences.push(genome_id, fragment_id, &record.seq(), record.start_line_number())?;
    }
    Ok(())
}

/// A failing disk, a broken gzip stream or one that grows without end as such, of which the parser keeps the words.
fn fasta_error(path: &Path, error: ParseError) -> DataError {
    let path = path.to_owned();
    match error.kind {
        ParseErrorKind::Io => DataError::Io {
            path,
            source: io::Error::other(error.msg),
        },
        _ => DataError::Fasta { path, source: error },
    }
}
