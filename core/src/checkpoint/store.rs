//! A model's config and weights, wherever they come from.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::files::WeightFiles;
use super::synthetic::Synthetic;
use super::tensor::TensorBytes;
use super::{CheckpointError, Dimensions, SourceTensor, TensorEntry};
use crate::bounded;

/// A model as it is stored: its config, and its tensors by name.
pub struct Checkpoint {
    name: String,
    config_path: PathBuf,
    config_text: String,
    config: Value,
    entries: BTreeMap<String, TensorEntry>,
    weights: Source,
    fingerprint: OnceLock<String>,
}

enum Source {
    Files(WeightFiles),
    Synthetic(Synthetic),
}

impl Checkpoint {
    /// Opens a directory with `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
    /// Weights are mapped, not read.
    ///
    /// # Errors
    /// A [`CheckpointError`] that names the file which is missing or wrong, and what was expected.
    pub fn open(directory: &Path) -> Result<Self, CheckpointError> {
        if !directory.is_dir() {
            return Err(CheckpointError::NoDirectory {
                path: directory.to_owned(),
            });
        }
        let config_path = directory.join("config.json");
        if !config_path.is_file() {
            return Err(CheckpointError::MissingConfig {
                directory: directory.to_owned(),
            });
        }
        let (config_text, config) = read_config(&config_path)?;
        if !config["quantization_config"].is_null() {
            return Err(CheckpointError::AlreadyQuantised { path: config_path });
        }
        let (files, entries) = WeightFiles::open(directory)?;
        Ok(Self {
            name: directory.display().to_string(),
            config_path,
            config_text,
            config,
            entries,
            weights: Source::Files(files),
            fingerprint: OnceLock::new(),
        })
    }

    /// A model of the shape that the config file at `config_path` describes, with random weights drawn from `seed`.
    ///
    /// # Errors
    /// [`CheckpointError::Synthetic`] for other models than Mistral and Llama, [`CheckpointError::ConfigKey`] for a
    /// missing size.
    pub fn synthetic(config_path: &Path, seed: u64) -> Result<Self, CheckpointError> {
        let (config_text, config) = read_config(config_path)?;
        let (weights, entries) = Synthetic::new(config_path, &config, seed)?;
        Ok(Self {
            name: format!("synthetic:{}", config_path.display()),
            config_path: config_path.to_owned(),
            config_text,
            config,
            entries,
            weights: Source::Synthetic(weights),
            fingerprint: OnceLock::new(),
        })
    }

    /// Path of the directory, or `synthetic:` and the path of the config.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of config.json.
    pub fn config_text(&self) -> &str {
        &self.config_text
    }

    /// config.json, a JSON object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where config.json is.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// `tokenizer.json` beside config.json, if it is there.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        let path = self.config_path.with_file_name("tokenizer.json");
        path.is_file().then_some(path)
    }

    /// Whether the weights are random numbers.
    pub fn is_synthetic(&self) -> bool {
        matches!(self.weights, Source::Synthetic(_))
    }

    /// Names and descriptions of all tensors, sorted by name.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &TensorEntry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The tensor of that name: its bytes in the mapped file, or synthetic weights drawn now, with `threads` threads.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::ElementType`] when the elements are no floats.
    pub fn tensor(&self, name: &str, threads: usize) -> Result<SourceTensor, CheckpointError> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        let dtype = entry.dtype.ok_or_else(|| CheckpointError::ElementType {
            checkpoint: self.name.clone(),
            tensor: name.to_owned(),
            dtype: entry.stored_as.to_string(),
        })?;
        let bytes = self.bytes(name, threads)?;
        Ok(SourceTensor::new(bytes, entry.rows(), entry.cols(), dtype))
    }

    /// The bytes of a tensor of any type.
    pub(super) fn bytes(&self, name: &str, threads: usize) -> Result<TensorBytes, CheckpointError> {
        match &self.weights {
            Source::Files(files) => files.tensor(name),
            Source::Synthetic(weights) => self
                .entries
                .get(name)
                .map(|entry| weights.tensor(name, entry, threads)),
        }
        .ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingTensor {
            checkpoint: self.name.clone(),
            tensor: name.to_owned(),
        }
    }

    /// The directory of the model's files; `None` for synthetic weights.
    pub fn directory(&self) -> Option<&Path> {
        match self.weights {
            Source::Files(_) => self.config_path.parent(),
            Source::Synthetic(_) => None,
        }
    }

    /// Sizes of the decoder that config.json describes.
    ///
    /// # Errors
    /// Those of [`Dimensions::from_config`].
    pub fn dimensions(&self) -> Result<Dimensions, CheckpointError> {
        Dimensions::from_config(&self.config_path, &self.config)
    }

    /// SHA-256 of the contents as 64 hexadecimal digits, computed at the first call: reads all weights once.
    ///
    /// It is the digest of the lines that `sha256sum` prints for config.json and the weight files, in the order of
    /// their names. For synthetic weights the seed's line stands in for the weight files.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut lines = BTreeMap::from([(
                "config.json".to_owned(),
                hex(&Sha256::digest(self.config_text.as_bytes())),
            )]);
            match &self.weights {
                Source::Files(files) => {
                    for file in &files.files {
                        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                        lines.insert(name.into_owned(), hex(&Sha256::digest(&file.bytes[..])));
                    }
                }
                Source::Synthetic(weights) => {
                    lines.insert(weights.description(), "synthetic".to_owned());
                }
            }
            let mut text = String::new();
            for (name, digest) in &lines {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{digest}  {name}");
            }
            hex(&Sha256::digest(text.as_bytes()))
        })
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checkpoint({}, {} tensors)", self.name, self.entries.len())
    }
}

fn read_config(path: &Path) -> Result<(String, Value), CheckpointError> {
    let text = bounded::read_text(path, bounded::DESCRIPTION).map_err(CheckpointError::io(path))?;
    let json_error = |source| CheckpointError::Json {
        path: path.to_owned(),
        source,
    };
    let config: Value = serde_json::from_str(&text).map_err(|source| json_error(Some(source)))?;
    if config.is_object() {
        Ok((text, config))
    } else {
        Err(json_error(None))
    }
}

/// The bytes in hexadecimal digits.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
