//! The reference's outputs on disk: computed once a condition, read by the evaluation of every mode.
//!
//! A store is a directory with `logits.f32` (the logits of all tokens of all sequences, f32, row-major),
//! `pooled.f32` (for each sequence the pooled vectors of [`REFERENCE_LAYERS`]), and `index.json`. Both number files are
//! memory-mapped for reading, so that a worker holds no more than the sequence at hand.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// The layers whose pooled vectors are stored, in their order.
pub const REFERENCE_LAYERS: [&str; 2] = ["last", "second_last"];

const LOGITS_FILE: &str = "logits.f32";
const POOLED_FILE: &str = "pooled.f32";
const INDEX_FILE: &str = "index.json";

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The files do not fit each other.
    #[error("{path}: expected {expected} bytes, found {found}: the reference is incomplete, run again")]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes that the index asks for.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The sequences are not those that the reference was made from.
    #[error("{path}: {what}; the reference was made from other data, run again")]
    Mismatch {
        /// The index.
        path: PathBuf,
        /// What differs.
        what: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    vocabulary: usize,
    hidden: usize,
    /// Tokens of each sequence.
    tokens: Vec<usize>,
}

/// Writes a store, one sequence after the other.
pub struct ReferenceWriter {
    directory: PathBuf,
    logits: BufWriter<File>,
    pooled: BufWriter<File>,
    index: Index,
}

impl ReferenceWriter {
    /// Starts a store in `directory`, which must exist.
    ///
    /// # Errors
    /// [`ReferenceError::Io`].
    pub fn create(directory: &Path, vocabulary: usize, hidden: usize) -> Result<Self, ReferenceError> {
        let create = |name: &str| {
            let path = directory.join(name);
            File::create(&path)
                .map(BufWriter::new)
                .map_err(|source| ReferenceError::Io { path, source })
        };
        Ok(Self {
            logits: create(LOGITS_FILE)?,
            pooled: create(POOLED_FILE)?,
            directory: directory.to_owned(),
            index: Index {
                vocabulary,
                hidden,
                tokens: Vec::new(),
            },
        })
    }

    /// Adds a sequence: logits `[tokens, vocabulary]`, and one pooled vector a layer of [`REFERENCE_LAYERS`].
    ///
    /// # Errors
    /// [`ReferenceError::Io`].
    ///
    /// # Panics
    /// When a slice does not have the shape that `create` was told.
    pub fn push(&mut self, logits: &[f32], pooled: [&[f32]; 2]) -> Result<(), ReferenceError> {
        assert_eq!(logits.len() % self.index.vocabulary, 0, "whole rows of logits");
        assert!(
            pooled.iter().all(|vector| vector.len() == self.index.hidden),
            "one value a hidden dimension"
        );
        self.index.tokens.push(logits.len() / self.index.vocabulary);
        let io = |name: &str, source| ReferenceError::Io {
            path: self.directory.join(name),
            source,
        };
        self.logits
            .write_all(bytemuck::cast_slice(logits))
            .map_err(|error| io(LOGITS_FILE, error))?;
        for vector in pooled {
            self.pooled
                .write_all(bytemuck::cast_slice(vector))
                .map_err(|error| io(POOLED_FILE, error))?;
        }
        Ok(())
    }

    /// Ends the store; without this it cannot be opened.
    ///
    /// # Errors
    /// [`ReferenceError::Io`].
    pub fn finish(mut self) -> Result<(), ReferenceError> {
        let io = |name: &str, source| ReferenceError::Io {
            path: self.directory.join(name),
            source,
        };
        self.logits.flush().map_err(|error| io(LOGITS_FILE, error))?;
        self.pooled.flush().map_err(|error| io(POOLED_FILE, error))?;
        let index = serde_json::to_vec(&self.index).map_err(|error| io(INDEX_FILE, error.into()))?;
        std::fs::write(self.directory.join(INDEX_FILE), index).map_err(|error| io(INDEX_FILE, error))
    }
}

/// A store, memory-mapped.
pub struct Reference {
    index: Index,
    starts: Vec<usize>,
    logits: Mmap,
    pooled: Mmap,
}

impl Reference {
    /// Opens the store in `directory` and checks that it was made from sequences of these lengths.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn open(
        directory: &Path,
        vocabulary: usize,
        hidden: usize,
        tokens: &[usize],
    ) -> Result<Self, ReferenceError> {
        let path = directory.join(INDEX_FILE);
        let read = || serde_json::from_slice::<Index>(&std::fs::read(&path)?).map_err(std::io::Error::from);
        let index = read().map_err(|source| ReferenceError::Io {
            path: path.clone(),
            source,
        })?;
        let found = (index.vocabulary, index.hidden, index.tokens.as_slice());
        if found != (vocabulary, hidden, tokens) {
            let what = format!(
                "it holds {} sequences with {} logits a token and {} hidden dimensions; there are {} with {} and {}",
                index.tokens.len(),
                index.vocabulary,
                index.hidden,
                tokens.len(),
                vocabulary,
                hidden
            );
            return Err(ReferenceError::Mismatch { path, what });
        }
        let mut starts = Vec::with_capacity(tokens.len());
        let mut total = 0;
        for count in tokens {
            starts.push(total);
            total += count * vocabulary;
        }
        let pooled = tokens.len() * REFERENCE_LAYERS.len() * hidden;
        Ok(Self {
            logits: map(directory.join(LOGITS_FILE), total)?,
            pooled: map(directory.join(POOLED_FILE), pooled)?,
            index,
            starts,
        })
    }

    /// The reference's logits of a sequence, `[tokens, vocabulary]`.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn logits(&self, sequence: usize) -> &[f32] {
        let start = self.starts[sequence];
        let values: &[f32] = bytemuck::cast_slice(&self.logits);
        &values[start..start + self.index.tokens[sequence] * self.index.vocabulary]
    }

    /// The reference's pooled vector of a sequence for layer `layer` of [`REFERENCE_LAYERS`], `[hidden]`.
    ///
    /// # Panics
    /// When there is no such sequence or layer.
    pub fn pooled(&self, sequence: usize, layer: usize) -> &[f32] {
        assert!(layer < REFERENCE_LAYERS.len(), "one of the stored layers");
        let start = (sequence * REFERENCE_LAYERS.len() + layer) * self.index.hidden;
        let values: &[f32] = bytemuck::cast_slice(&self.pooled);
        &values[start..start + self.index.hidden]
    }
}

/// Maps a file of `values` f32 values.
fn map(path: PathBuf, values: usize) -> Result<Mmap, ReferenceError> {
    let expected = (values * size_of::<f32>()) as u64;
    let open = || {
        let file = File::open(&path)?;
        let found = file.metadata()?.len();
        // SAFETY: the store belongs to one run, which does not write it again after `finish`; a foreign process that
        // cut the file short would end this worker with SIGBUS, which the host reports as a crash of its cell.
        Ok((found, unsafe { Mmap::map(&file)? }))
    };
    match open() {
        Ok((found, _)) if found != expected => Err(ReferenceError::Size {
            path,
            expected,
            found,
        }),
        Ok((_, map)) => Ok(map),
        Err(source) => Err(ReferenceError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = ReferenceWriter::create(directory.path(), 3, 2).unwrap();
        writer
            .push(&[1.0, 2.0, 3.0], [&[10.0, 11.0], &[20.0, 21.0]])
            .unwrap();
        writer
            .push(&[4.0, 5.0, 6.0, 7.0, 8.0, 9.0], [&[12.0, 13.0], &[22.0, 23.0]])
            .unwrap();
        writer.finish().unwrap();
        let reference = Reference::open(directory.path(), 3, 2, &[1, 2]).unwrap();
        assert_eq!(reference.logits(0), [1.0, 2.0, 3.0]);
        assert_eq!(reference.logits(1), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(reference.pooled(1, 0), [12.0, 13.0]);
        assert_eq!(reference.pooled(0, 1), [20.0, 21.0]);
    }

    #[test]
    fn other_data_and_unfinished_stores_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = ReferenceWriter::create(directory.path(), 1, 1).unwrap();
        writer.push(&[1.0], [&[1.0], &[1.0]]).unwrap();
        assert!(matches!(
            Reference::open(directory.path(), 1, 1, &[1]),
            Err(ReferenceError::Io { .. })
        ));
        writer.finish().unwrap();
        assert!(matches!(
            Reference::open(directory.path(), 1, 1, &[2]),
            Err(ReferenceError::Mismatch { .. })
        ));
        std::fs::write(directory.path().join(LOGITS_FILE), [0; 3]).unwrap();
        assert!(matches!(
            Reference::open(directory.path(), 1, 1, &[1]),
            Err(ReferenceError::Size { .. })
        ));
    }
}
