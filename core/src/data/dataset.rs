use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bases::{Fault, normalise};
use super::{DataError, fasta, gzip, table};

/// A stretch of a genome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The genome it was taken from.
    pub genome_id: String,
    /// Its name within the file.
    pub fragment_id: String,
    /// Its bases, in upper case, over `A C G T N`.
    pub bases: String,
}

/// The sequences of one file, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The sequences; there is at least one.
    pub sequences: Vec<Sequence>,
    /// The file.
    pub source: PathBuf,
    /// SHA-256 of the file as it lies on disk, hexadecimal.
    pub sha256: String,
    /// IUPAC codes of ambiguous bases that became `N`.
    pub ambiguous_bases: u64,
}

impl Dataset {
    /// Reads a FASTA file or a table, plain or gzip; see the [module's documentation](super).
    ///
    /// # Errors
    /// The file cannot be read or parsed, lacks columns, or holds no sequence; a record has no genome's name, no known
    /// base, or a letter that is no nucleotide.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let io_error = |source| DataError::Io {
            path: path.to_owned(),
            source,
        };
        if !path.metadata().map_err(io_error)?.is_file() {
            // It is read twice, which a pipe does not allow.
            let reason = "not a regular file; write a pipe's content to a file first";
            return Err(io_error(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let sha256 = sha256(path).map_err(io_error)?;
        let mut reader = gzip::open(path).map_err(io_error)?;
        let start = reader.fill_buf().map_err(io_error)?;
        let mut sequences = Sequences {
            path,
            list: Vec::new(),
            ambiguous: 0,
        };
        match start.first() {
            None => {}
            Some(b'>') => fasta::read(reader, &mut sequences)?,
            Some(_) => match table::delimiter(path, start) {
                Some(delimiter) => table::read(reader, delimiter, &mut sequences)?,
                None => {
                    return Err(DataError::UnknownFormat {
                        path: path.to_owned(),
                    });
                }
            },
        }
        if sequences.list.is_empty() {
            return Err(DataError::NoSequences {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            sequences: sequences.list,
            source: path.to_owned(),
            sha256,
            ambiguous_bases: sequences.ambiguous,
        })
    }

    /// The first `count` sequences of each genome, in file order. `ambiguous_bases` and `sha256` stay the file's.
    #[must_use]
    pub fn subset_per_genome(mut self, count: usize) -> Self {
        let mut taken: HashMap<String, usize> = HashMap::new();
        self.sequences.retain(|sequence| {
            let taken = taken.entry(sequence.genome_id.clone()).or_default();
            *taken += 1;
            *taken <= count
        });
        self
    }
}

/// The sequences read so far; what both formats check is checked here.
pub(super) struct Sequences<'a> {
    pub(super) path: &'a Path,
    list: Vec<Sequence>,
    ambiguous: u64,
}

impl Sequences<'_> {
    /// Number of sequences so far.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Appends a sequence. `line` is where its record begins, from 1.
    pub(super) fn push(
        &mut self,
        genome_id: &str,
        fragment_id: String,
        bases: &[u8],
        line: u64,
    ) -> Result<(), DataError> {
        let path = self.path.to_owned();
        if genome_id.is_empty() {
            return Err(DataError::UnnamedGenome {
                path,
                record: format!("line {line}"),
            });
        }
        let bases = normalise(bases).map_err(|fault| {
            let record = format!("line {line}, record `{genome_id}` `{fragment_id}`");
            match fault {
                Fault::NotNucleotide { letter, position } => DataError::NotNucleotide {
                    path,
                    record,
                    letter,
                    position,
                },
                Fault::NoKnownBase { length } => DataError::NoKnownBase { path, record, length },
            }
        })?;
        self.ambiguous += bases.ambiguous;
        self.list.push(Sequence {
            genome_id: genome_id.to_owned(),
            fragment_id,
            bases: bases.letters,
        });
        Ok(())
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(chunk);
        let length = chunk.len();
        reader.consume(length);
    }
    Ok(hasher
        .finalize()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}
