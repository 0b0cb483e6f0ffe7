//! The reference's outputs on disk: computed once a condition, read by the evaluation of every mode.
//!
//! A store is a directory with `logits.f32` (the logits of all tokens of all sequences, f32, row-major),
//! `pooled.f32` (for each sequence the pooled vectors of [`REFERENCE_LAYERS`]), and `index.json`. Both number files are
//! memory-mapped for reading, so that a worker holds no more than the sequence at hand.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use memmap2::{Mmap, UncheckedAdvice};
use serde::{Deserialize, Serialize};

use crate::bounded;

/// The layers whose pooled vectors are stored, in their order.
pub const REFERENCE_LAYERS: [&str; 2] = ["last", "second_last"];

/// Bytes that Linux may map around a page that is asked for, which brings back what was released before it: 64 KiB by
/// default.
const READ_AROUND: usize = 1 << 20;

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
    /// The reference is not of this run's model, data or settings.
    #[error("{path}: {what}; make a reference for this run (leave --reference DIR out)")]
    Mismatch {
        /// The index.
        path: PathBuf,
        /// What differs.
        what: String,
    },
}

/// What a reference is of, and where it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceLabel {
    /// Content hashes and settings, by name, that decide what is stored: a run with others cannot use it.
    pub identity: BTreeMap<String, String>,
    /// What made it, by name (backend, device, hash of the plugin): differences are told, not refused.
    pub origin: BTreeMap<String, String>,
}

/// The reference's nll over the sliding windows of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowNll {
    /// Predicted tokens.
    pub predicted: u64,
    /// Sum of their nll in nats.
    #[serde(with = "crate::results::number")]
    pub nll: f64,
}

/// The label of the store in `directory`.
///
/// # Errors
/// [`ReferenceError::Io`] without a finished store.
pub fn read_label(directory: &Path) -> Result<ReferenceLabel, ReferenceError> {
    Ok(read_index(&directory.join(INDEX_FILE))?.label)
}

fn read_index(path: &Path) -> Result<Index, ReferenceError> {
    let read = || {
        serde_json::from_slice::<Index>(&bounded::read(path, bounded::LIST)?).map_err(std::io::Error::from)
    };
    read().map_err(|source| ReferenceError::Io {
        path: path.to_owned(),
        source,
    })
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    label: ReferenceLabel,
    vocabulary: usize,
    hidden: usize,
    /// Tokens of each sequence.
    tokens: Vec<usize>,
    /// nll over sliding windows of each sequence, where that was asked for.
    sliding: Vec<WindowNll>,
}

/// Writes a store, one sequence after the other.
pub struct ReferenceWriter {
    directory: PathBuf,
    logits: BufWriter<File>,
    pooled: BufWriter<File>,
    index: Index,
}

impl ReferenceWriter {
    /// Starts a store in `directory`, which must exist; one that is there loses its validity.
    ///
    /// # Errors
    /// [`ReferenceError::Io`].
    pub fn create(
        directory: &Path,
        label: ReferenceLabel,
        vocabulary: usize,
        hidden: usize,
    ) -> Result<Self, ReferenceError> {
        let index = directory.join(INDEX_FILE);
        match std::fs::remove_file(&index) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ReferenceError::Io { path: index, source });
            }
            _ => {}
        }
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
                label,
                vocabulary,
                hidden,
                tokens: Vec::new(),
                sliding: Vec::new(),
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

    /// Keeps the nll over sliding windows of the sequence that was pushed last.
    pub fn push_sliding(&mut self, sliding: WindowNll) {
        self.index.sliding.push(sliding);
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
        let unfinished = self.directory.join("index.json.part");
        std::fs::write(&unfinished, index)
            .and_then(|()| std::fs::rename(&unfinished, self.directory.join(INDEX_FILE)))
            .map_err(|error| io(INDEX_FILE, error))
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
    /// Opens the store in `directory` and checks that it is of this identity and of sequences of these lengths.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn open(
        directory: &Path,
        identity: &BTreeMap<String, String>,
        vocabulary: usize,
        hidden: usize,
        tokens: &[usize],
    ) -> Result<Self, ReferenceError> {
        let path = directory.join(INDEX_FILE);
        let index = read_index(&path)?;
        let found = &index.label.identity;
        let differences: Vec<String> = identity
            .keys()
            .chain(found.keys().filter(|name| !identity.contains_key(*name)))
            .filter(|name| identity.get(*name) != found.get(*name))
            .map(|name| {
                let text = |map: &BTreeMap<String, String>| map.get(name).cloned().unwrap_or_default();
                format!("{name} is `{}` there and `{}` here", text(found), text(identity))
            })
            .collect();
        if !differences.is_empty() {
            let what = differences.join(", ");
            return Err(ReferenceError::Mismatch { path, what });
        }
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

    /// What made it.
    pub fn origin(&self) -> &BTreeMap<String, String> {
        &self.index.label.origin
    }

    /// The reference's nll over the sliding windows of a sequence; `None` when none were asked for.
    pub fn sliding(&self, sequence: usize) -> Option<WindowNll> {
        self.index.sliding.get(sequence).copied()
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

    /// Takes the logits of a sequence out of this process's memory again; [`logits`](Self::logits) would read them anew.
    /// Without this, pages of the file that were read count as the process's for as long as nobody else needs the room.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn release(&self, sequence: usize) {
        let bytes = |values: usize| values * size_of::<f32>();
        let end = bytes(self.starts[sequence] + self.index.tokens[sequence] * self.index.vocabulary);
        let start = bytes(self.starts[sequence]).saturating_sub(READ_AROUND);
        // SAFETY: a read-only mapping of a file: what is dropped is read from the file again, unchanged.
        let dropped = unsafe {
            self.logits
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
        };
        if let Err(error) = dropped {
            tracing::debug!("the logits of sequence {sequence} stay in memory: {error}");
        }
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

    fn label() -> ReferenceLabel {
        let map = |text: &str| BTreeMap::from([("model".to_owned(), text.to_owned())]);
        ReferenceLabel {
            identity: map("a1"),
            origin: map("here"),
        }
    }

    #[test]
    fn another_identity_is_refused_with_what_differs() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = ReferenceWriter::create(directory.path(), label(), 1, 1).unwrap();
        writer.push(&[1.0], [&[1.0], &[1.0]]).unwrap();
        writer.finish().unwrap();
        assert_eq!(read_label(directory.path()).unwrap(), label());
        let other = BTreeMap::from([("model".to_owned(), "b2".to_owned())]);
        let error = Reference::open(directory.path(), &other, 1, 1, &[1])
            .err()
            .unwrap();
        let message = error.to_string();
        assert!(message.contains("model is `a1` there and `b2` here"), "{message}");
    }

    #[test]
    fn what_was_stored_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = ReferenceWriter::create(directory.path(), label(), 3, 2).unwrap();
        writer
            .push(&[1.0, 2.0, 3.0], [&[10.0, 11.0], &[20.0, 21.0]])
            .unwrap();
        writer
            .push(&[4.0, 5.0, 6.0, 7.0, 8.0, 9.0], [&[12.0, 13.0], &[22.0, 23.0]])
            .unwrap();
        writer.finish().unwrap();
        let reference = Reference::open(directory.path(), &label().identity, 3, 2, &[1, 2]).unwrap();
        assert_eq!(reference.logits(0), [1.0, 2.0, 3.0]);
        assert_eq!(reference.logits(1), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        reference.release(1);
        assert_eq!(reference.logits(1), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(reference.pooled(1, 0), [12.0, 13.0]);
        assert_eq!(reference.pooled(0, 1), [20.0, 21.0]);
    }

    #[test]
    fn other_data_and_unfinished_stores_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = ReferenceWriter::create(directory.path(), label(), 1, 1).unwrap();
        writer.push(&[1.0], [&[1.0], &[1.0]]).unwrap();
        assert!(matches!(
            Reference::open(directory.path(), &label().identity, 1, 1, &[1]),
            Err(ReferenceError::Io { .. })
        ));
        writer.finish().unwrap();
        assert!(matches!(
            Reference::open(directory.path(), &label().identity, 1, 1, &[2]),
            Err(ReferenceError::Mismatch { .. })
        ));
        std::fs::write(directory.path().join(LOGITS_FILE), [0; 3]).unwrap();
        assert!(matches!(
            Reference::open(directory.path(), &label().identity, 1, 1, &[1]),
            Err(ReferenceError::Size { .. })
        ));
    }
}
