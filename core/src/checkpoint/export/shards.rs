//! Tensors out: one safetensors file, or shards with an index.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use qbench_sdk::{AlignedBuffer, StoredTensor};
use safetensors::{Dtype, View};
use serde_json::json;

use super::directory::NewDirectory;
use super::{Checkpoint, ExportError, StoredWeights};
use crate::checkpoint::TensorEntry;
use crate::checkpoint::tensor::TensorBytes;

/// Most bytes that a weight's `quant_state` takes, for planning shards before it is known.
const STATE_BYTES: u64 = 512;

/// A tensor to be written.
pub(super) struct Output {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Data,
}

enum Data {
    Bytes(TensorBytes),
    Buffer {
        stored: Arc<dyn StoredTensor>,
        index: usize,
    },
}

impl Output {
    /// A tensor of the checkpoint as it is.
    pub(super) fn unchanged(name: &str, entry: &TensorEntry, bytes: TensorBytes) -> Self {
        Self {
            name: name.to_owned(),
            dtype: entry.stored_as,
            shape: entry.shape.clone(),
            data: Data::Bytes(bytes),
        }
    }

    /// A buffer of a quantised weight.
    pub(super) fn buffer(
        name: &str,
        dtype: Dtype,
        shape: Vec<usize>,
        stored: &Arc<dyn StoredTensor>,
        index: usize,
    ) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            shape,
            data: Data::Buffer {
                stored: Arc::clone(stored),
                index,
            },
        }
    }

    /// Unsigned bytes.
    pub(super) fn bytes(name: &str, shape: Vec<usize>, bytes: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            dtype: Dtype::U8,
            shape,
            data: Data::Bytes(TensorBytes::Owned(AlignedBuffer::from_bytes(bytes))),
        }
    }

    fn slice(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Buffer { stored, index } => stored.buffer(*index),
        }
    }
}

impl View for &Output {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.slice())
    }

    fn data_len(&self) -> usize {
        self.slice().len()
    }
}

/// Collects tensors and writes a file whenever its share is complete. Tensors come in the checkpoint's order.
pub(super) struct Writer<'a> {
    directory: &'a NewDirectory,
    /// Tensors of the checkpoint in each file.
    plan: Vec<usize>,
    written: usize,
    added: usize,
    pending: Vec<Output>,
    weight_map: BTreeMap<String, String>,
    bytes: u64,
}

impl<'a> Writer<'a> {
    /// Plans the files: as many tensors in each as fit into `shard_bytes`, at least one.
    pub(super) fn new(
        directory: &'a NewDirectory,
        checkpoint: &Checkpoint,
        weights: &StoredWeights,
        shard_bytes: u64,
    ) -> Self {
        let (mut plan, mut room) = (Vec::new(), 0);
        for (name, entry) in checkpoint.entries() {
            let bytes = match weights.layout(name) {
                Some(layout) => layout.bytes() as u64 + STATE_BYTES,
                None => entry.bytes() as u64,
            };
            match plan.last_mut() {
                Some(tensors) if bytes <= room => {
                    *tensors += 1;
                    room -= bytes;
                }
                _ => {
                    plan.push(1);
                    room = shard_bytes.saturating_sub(bytes);
                }
            }
        }
        Self {
            directory,
            plan,
            written: 0,
            added: 0,
            pending: Vec::new(),
            weight_map: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Adds what one tensor of the checkpoint became.
    pub(super) fn add(&mut self, outputs: impl IntoIterator<Item = Output>) -> Result<(), ExportError> {
        self.pending.extend(outputs);
        self.added += 1;
        if self.plan.get(self.written) == Some(&self.added) {
            self.write_shard()?;
        }
        Ok(())
    }

    fn write_shard(&mut self) -> Result<(), ExportError> {
        let file = match self.plan.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", self.written + 1),
        };
        let path = self.directory.path().join(&file);
        let tensors = self.pending.iter().map(|output| (output.name.as_str(), output));
        // transformers asks for this key; it means tensors of PyTorch's kind.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &path)
            .map_err(|source| ExportError::SafeTensors { path, source })?;
        for output in self.pending.drain(..) {
            self.bytes += output.slice().len() as u64;
            self.weight_map.insert(output.name, file.clone());
        }
        self.written += 1;
        self.added = 0;
        self.directory.set_usual_permissions(&file)
    }

    /// Writes the index, if there are shards, and returns the bytes of all tensors.
    pub(super) fn finish(self) -> Result<u64, ExportError> {
        if self.plan.len() > 1 {
            let index = json!({ "metadata": { "total_size": self.bytes }, "weight_map": self.weight_map });
            self.directory
                .write_json("model.safetensors.index.json", &index)?;
        }
        Ok(self.bytes)
    }
}
