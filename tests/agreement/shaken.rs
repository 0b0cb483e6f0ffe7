//! A model of which the last bits are others: what that changes, no two orders of sums can be asked to agree on.

use std::{collections::HashMap, fs};

use qbench_sdk::{DType, widen};
use qbench_tests::repository;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use tempfile::TempDir;

/// Ways to shake a model.
pub(crate) const SHAKES: usize = 4;

/// The model in `folder` with norms in f32, half of whose values are the next larger float: each second, or every other two,
/// four or eight.
pub(crate) fn shaken(folder: &str, shake: usize) -> TempDir {
    let (from, to) = (repository().join(folder), tempfile::tempdir().unwrap());
    for entry in fs::read_dir(from).unwrap() {
        let (file, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        let bytes = fs::read(&file).unwrap();
        let is_weights = name.to_string_lossy().starts_with("model")
            && file.extension().is_some_and(|e| e == "safetensors");
        fs::write(
            to.path().join(name),
            if is_weights {
                with_shaken_norms(&bytes, shake)
            } else {
                bytes
            },
        )
        .unwrap();
    }
    to
}

fn with_shaken_norms(file: &[u8], shake: usize) -> Vec<u8> {
    let model = SafeTensors::deserialize(file).unwrap();
    let norms: HashMap<&str, Vec<u8>> = model
        .iter()
        .filter(|(name, _)| name.ends_with("norm.weight"))
        .map(|(name, norm)| (name, next_larger(&norm, shake)))
        .collect();
    let tensors = model.iter().map(|(name, tensor)| {
        let view = match norms.get(name) {
            Some(norm) => TensorView::new(Dtype::F32, tensor.shape().to_vec(), norm).unwrap(),
            None => tensor,
        };
        (name, view)
    });
    serialize(tensors, None).unwrap()
}

fn next_larger(norm: &TensorView<'_>, shake: usize) -> Vec<u8> {
    let dtype = match norm.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        other => panic!("a norm in {other:?}"),
    };
    let mut values = vec![0.0; norm.shape().iter().product()];
    widen(norm.data(), dtype, &mut values).unwrap();
    values
        .iter()
        .enumerate()
        .flat_map(|(index, value)| {
            if index >> shake & 1 == 0 {
                *value
            } else {
                value.next_up()
            }
            .to_le_bytes()
        })
        .collect()
}
