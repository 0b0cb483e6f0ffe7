mod files;
mod stored;
mod synthetic;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};

/// A tensor of a fixture: name, type, shape, bytes.
type Fixture = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write_tensors(path: &Path, tensors: &[Fixture]) {
    let views: BTreeMap<_, _> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A directory with `config.json` of the given text and, if there are any, the tensors in `model.safetensors`.
fn directory(config: &str, tensors: &[Fixture]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    if !tensors.is_empty() {
        write_tensors(&directory.path().join("model.safetensors"), tensors);
    }
    directory
}
