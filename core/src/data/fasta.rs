use std::io::BufRead;

use needletail::parser::{FastaReader, FastxReader};

use super::DataError;
use super::dataset::Sequences;

/// Reads decompressed FASTA.
pub(super) fn read(reader: impl BufRead + Send, sequences: &mut Sequences<'_>) -> Result<(), DataError> {
    let mut parser = FastaReader::new(reader);
    while let Some(record) = parser.next() {
        let record = record.map_err(|source| DataError::Fasta {
            path: sequences.path.to_owned(),
            source,
        })?;
        let header = String::from_utf8_lossy(record.id());
        let genome_id = header.split_whitespace().next().unwrap_or_default();
        let fragment_id = sequences.len().to_string();
        sequences.push(genome_id, fragment_id, &record.seq(), record.start_line_number())?;
    }
    Ok(())
}
