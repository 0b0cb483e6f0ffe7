//! Safetensors files of a directory, mapped into memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use qbench_sdk::DType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::tensor::TensorBytes;
use super::{CheckpointError, TensorEntry};
use crate::bounded;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Weights in PyTorch's own format, which is a Python program in disguise and is not read.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Bytes of the header's length, which come first in a safetensors file.
const LENGTH_BYTES: usize = 8;

/// One mapped file.
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Arc<Mmap>,
}

struct Location {
    file: usize,
    range: Range<usize>,
}

/// All tensors of a model's weight files.
pub(super) struct WeightFiles {
    pub(super) files: Vec<WeightFile>,
    locations: BTreeMap<String, Location>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Maps `model.safetensors`, or else the shards of the index, and reads their headers.
    pub(super) fn open(directory: &Path) -> Result<(Self, BTreeMap<String, TensorEntry>), CheckpointError> {
        let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
        let mut all = Self {
            files: Vec::new(),
            locations: BTreeMap::new(),
        };
        let mut entries = BTreeMap::new();
        if single.is_file() {
            all.add(single, &mut entries)?;
        } else if index.is_file() {
            all.add_shards(directory, index, &mut entries)?;
        } else {
            return Err(CheckpointError::MissingWeights {
                directory: directory.to_owned(),
                pickle: PICKLES
                    .into_iter()
                    .find(|file| directory.join(file).is_file())
                    .map(str::to_owned),
            });
        }
        Ok((all, entries))
    }

    fn add_shards(
        &mut self,
        directory: &Path,
        index: PathBuf,
        entries: &mut BTreeMap<String, TensorEntry>,
    ) -> Result<(), CheckpointError> {
        let text = bounded::read_text(&index, bounded::DESCRIPTION).map_err(CheckpointError::io(&index))?;
        let weight_map = match serde_json::from_str::<Index>(&text) {
            Ok(parsed) => parsed.weight_map,
            Err(source) => {
                return Err(CheckpointError::Json {
                    path: index,
                    source: Some(source),
                });
            }
        };
        for shard in weight_map.values().collect::<BTreeSet<_>>() {
            let path = directory.join(shard);
            if !path.is_file() {
                let shard = shard.clone();
                return Err(CheckpointError::MissingShard { index, shard });
            }
            self.add(path, entries)?;
        }
        for (tensor, shard) in weight_map {
            let holder = self
                .locations
                .get(&tensor)
                .map(|found| &self.files[found.file].path);
            if holder != Some(&directory.join(&shard)) {
                return Err(CheckpointError::NotInShard { index, tensor, shard });
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        path: PathBuf,
        entries: &mut BTreeMap<String, TensorEntry>,
    ) -> Result<(), CheckpointError> {
        let bytes = map(&path)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|source| CheckpointError::SafeTensors {
                path: path.clone(),
                bytes: bytes.len() as u64,
                source,
            })?;
        let file = self.files.len();
        for (tensor, info) in metadata.tensors() {
            // The header's offsets count from its end; the library has checked that they lie inside the file.
            let start = LENGTH_BYTES + header;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            entries.insert(
                tensor.clone(),
                TensorEntry {
                    shape: info.shape.clone(),
                    dtype: float_type(info.dtype),
                    stored_as: info.dtype,
                },
            );
            if let Some(other) = self.locations.insert(tensor.clone(), Location { file, range }) {
                return Err(CheckpointError::Duplicate {
                    tensor,
                    first: self.files[other.file].path.clone(),
                    second: path,
                });
            }
        }
        self.files.push(WeightFile { path, bytes });
        Ok(())
    }

    pub(super) fn tensor(&self, name: &str) -> Option<TensorBytes> {
        let location = self.locations.get(name)?;
        Some(TensorBytes::Mapped {
            file: Arc::clone(&self.files[location.file].bytes),
            range: location.range.clone(),
        })
    }
}

/// Maps a file for reading.
///
/// Mapped, a checkpoint is shared by all processes that measure it, and is read only where it is used. The price is
/// that a file changed by someone else while it is mapped changes under us: values would differ, or the process would
/// get a bus error if it was cut. Weight files are not edited in place (Hugging Face tools and ours write a new file
/// and rename it), each measurement runs in a process of its own, which the host watches, and every bit pattern is a
/// valid float; so neither case can go beyond a wrong or missing cell.
fn map(path: &Path) -> Result<Arc<Mmap>, CheckpointError> {
    let file = bounded::open(path).map_err(CheckpointError::io(path))?;
    // SAFETY: the map is private and read-only. Nobody writes to a checkpoint that is in use, see above; this cannot
    // be enforced, as for every memory-mapped file.
    let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(path))?;
    Ok(Arc::new(map))
}

fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}
