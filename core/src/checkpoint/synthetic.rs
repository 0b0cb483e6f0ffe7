//! Random weights for a model of any size: for speed and memory, which do not depend on the values.

use std::collections::BTreeMap;
use std::path::Path;

use qbench_sdk::{AlignedBuffer, DType, narrow};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::dimensions::{Dimensions, key_error};
use super::parallel::fill_parts;
use super::philox::normal4;
use super::tensor::{TensorBytes, safetensors_type};
use super::{CheckpointError, TensorEntry};

/// Standard deviation of the weights: what transformers initialises Mistral and Llama with.
const DEVIATION: f32 = 0.02;
/// Values that a thread draws before it rounds them; a multiple of the generator's four.
const BATCH: usize = 1024;
/// Models whose tensors are known here.
const MODEL_TYPES: [&str; 2] = ["mistral", "llama"];

/// A generator of weights. An element depends on the seed, the tensor's name and the element's index alone, so threads
/// and order change nothing.
pub(super) struct Synthetic {
    seed: u64,
    dtype: DType,
}

impl Synthetic {
    /// The tensors of the model that `config` describes, with the names, shapes and type that transformers gives them.
    pub(super) fn new(
        path: &Path,
        config: &Value,
        seed: u64,
    ) -> Result<(Self, BTreeMap<String, TensorEntry>), CheckpointError> {
        let refused = |reason: String| CheckpointError::Synthetic {
            path: path.to_owned(),
            reason,
        };
        let model_type = &config["model_type"];
        if !MODEL_TYPES.iter().any(|known| model_type == known) {
            return Err(refused(format!(
                "`model_type` is {model_type}, known are {}",
                MODEL_TYPES.join(" and ")
            )));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if config[key] == true {
                return Err(refused(format!("`{key}` is not supported")));
            }
        }
        let dtype = element_type(path, config)?;
        let dimensions = Dimensions::from_config(path, config)?;
        let entries = shapes(&dimensions)
            .into_iter()
            .map(|(name, shape)| {
                (
                    name,
                    TensorEntry {
                        shape,
                        dtype: Some(dtype),
                        stored_as: safetensors_type(dtype),
                    },
                )
            })
            .collect();
        Ok((Self { seed, dtype }, entries))
    }

    /// What stands for the weights in a fingerprint.
    pub(super) fn description(&self) -> String {
        format!("philox4x32-10 normal {DEVIATION} seed {}", self.seed)
    }

    /// Draws a tensor. Norms are vectors, and are 1 as in a new model.
    pub(super) fn tensor(&self, name: &str, entry: &TensorEntry, threads: usize) -> TensorBytes {
        let dtype = self.dtype;
        let mut bytes = AlignedBuffer::zeroed(entry.rows() * entry.cols() * dtype.size());
        if entry.shape.len() == 1 {
            round_to(&vec![1.0; entry.cols()], dtype, &mut bytes);
            return TensorBytes::Owned(bytes);
        }
        let (tensor, key) = (name_words(name), words(self.seed));
        fill_parts(&mut bytes, BATCH * dtype.size(), threads, |offset, part| {
            let mut block = (offset / dtype.size() / 4) as u64;
            let mut values = [0.0; BATCH];
            for bytes in part.chunks_mut(BATCH * dtype.size()) {
                for four in values.as_chunks_mut::<4>().0 {
                    let index = words(block);
                    *four = normal4([index[0], index[1], tensor[0], tensor[1]], key).map(|z| z * DEVIATION);
                    block += 1;
                }
                round_to(&values[..bytes.len() / dtype.size()], dtype, bytes);
            }
        });
        TensorBytes::Owned(bytes)
    }
}

fn round_to(values: &[f32], dtype: DType, bytes: &mut [u8]) {
    narrow(values, dtype, bytes).expect("synthetic weights have a float type");
}

fn words(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// 64 bits of the name's SHA-256: tensors of the same seed get unrelated streams.
fn name_words(name: &str) -> [u32; 2] {
    let digest = Sha256::digest(name.as_bytes());
    words(
        digest
            .iter()
            .take(8)
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
    )
}

/// `dtype` (transformers 5) or `torch_dtype` (4); bf16 where neither is given.
fn element_type(path: &Path, config: &Value) -> Result<DType, CheckpointError> {
    let key = if config["dtype"].is_null() {
        "torch_dtype"
    } else {
        "dtype"
    };
    match &config[key] {
        Value::Null => Ok(DType::BF16),
        value => match value.as_str().map(|name| name.trim_start_matches("torch.")) {
            Some("bfloat16") => Ok(DType::BF16),
            Some("float16") => Ok(DType::F16),
            Some("float32") => Ok(DType::F32),
            _ => Err(key_error(path, key, "float32, float16 or bfloat16", value)),
        },
    }
}

fn shapes(dimensions: &Dimensions) -> Vec<(String, Vec<usize>)> {
    let Dimensions {
        hidden,
        intermediate,
        vocabulary,
        ..
    } = *dimensions;
    let attention = dimensions.heads * dimensions.head_dim;
    let key_value = dimensions.kv_heads * dimensions.head_dim;
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !dimensions.tied_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    for layer in 0..dimensions.layers {
        for (module, shape) in [
            ("self_attn.q_proj", vec![attention, hidden]),
            ("self_attn.k_proj", vec![key_value, hidden]),
            ("self_attn.v_proj", vec![key_value, hidden]),
            ("self_attn.o_proj", vec![hidden, attention]),
            ("mlp.gate_proj", vec![intermediate, hidden]),
            ("mlp.up_proj", vec![intermediate, hidden]),
            ("mlp.down_proj", vec![hidden, intermediate]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ] {
            shapes.push((format!("model.layers.{layer}.{module}.weight"), shape));
        }
    }
    shapes
}
