//! What is fuzzed: each parser of ours behind a function that takes any bytes and must neither panic nor ask for more
//! memory than its input explains. Used by the smoke run of the tests and by the targets of cargo-fuzz.

use std::{fs, path::Path};

use qbench::plugins::Sidecar;
use qbench_architectures::DecoderConfig;
use qbench_core::{
    checkpoint::{Checkpoint, Dimensions},
    data::Dataset,
    results::{
        BenchmarkRow, JOURNAL_FILE, distribution_rows, quality_rows, read_benchmark, read_distributions,
        read_journal, read_quality,
    },
};
use qbench_sdk::{CudaKernel, DType, Layout, MatrixMut, Options, layout::decode};

/// A target: its name and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 8] = [
    ("layout", layout),
    ("kernel", kernel),
    ("sidecar", sidecar),
    ("config", config),
    ("checkpoint", checkpoint),
    ("sequences", sequences),
    ("journal", journal),
    ("tables", tables),
];

/// Most bytes that are allocated for a described layout.
const MAX_DECODED: usize = 1 << 20;

fn text(data: &[u8], parse: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        parse(text);
    }
}

/// A directory in which `name` is a file of these bytes.
fn with_file(name: &str, data: &[u8], read: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join(name), data).expect("a temporary file");
    read(directory.path());
}

/// A layout as it comes from a plugin, and the reference decoder on buffers of the sizes that it asks for.
pub(crate) fn layout(data: &[u8]) {
    text(data, |json| {
        let Ok(layout) = Layout::from_json(json) else {
            return;
        };
        let _ = layout
            .to_json()
            .map(|json| Layout::from_json(&json).expect("what was read is read again"));
        let elements = layout.rows().saturating_mul(layout.cols());
        let sizes: Vec<usize> = layout.buffers().iter().map(|buffer| buffer.bytes).collect();
        let bytes = sizes.iter().fold(0, |sum: usize, size| sum.saturating_add(*size));
        if bytes > MAX_DECODED || elements > MAX_DECODED / 4 {
            return;
        }
        // Codes of every value.
        let buffers: Vec<Vec<u8>> = sizes
            .iter()
            .map(|size| (0..*size).map(|index| index as u8).collect())
            .collect();
        let buffers: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        let mut out = vec![0; elements * 4];
        let mut out = MatrixMut::new(&mut out, layout.rows(), layout.cols(), DType::F32).expect("it fits");
        let _ = decode(&layout, &buffers, 0, &mut out);
    });
}

/// A CUDA kernel's description, and options as they are typed.
pub(crate) fn kernel(data: &[u8]) {
    text(data, |json| {
        let _ = Options::parse(json);
        if let Ok(kernel) = serde_json::from_str::<CudaKernel>(json)
            && kernel.validate(3).is_ok()
        {
            let _ = kernel.geometry.grid(4096, 4097);
        }
    });
}

/// A manifest beside a plugin.
pub(crate) fn sidecar(data: &[u8]) {
    text(data, |json| drop(Sidecar::parse(json)));
}

/// A model's config.json.
pub(crate) fn config(data: &[u8]) {
    text(data, |json| {
        let _ = DecoderConfig::from_json(json);
        if let Ok(config) = serde_json::from_str(json) {
            let _ = Dimensions::from_config(Path::new("config.json"), &config);
        }
    });
}

/// A model's directory: as its weights, and as the index of weights in parts.
pub(crate) fn checkpoint(data: &[u8]) {
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        with_file(name, data, |directory| {
            fs::write(directory.join("config.json"), "{}").expect("a temporary file");
            let Ok(checkpoint) = Checkpoint::open(directory) else {
                return;
            };
            for (name, _) in checkpoint.entries() {
                let _ = checkpoint
                    .tensor(name, 1)
                    .map(|tensor| tensor.matrix().data().len());
            }
        });
    }
}

/// A file of sequences, whatever its name promises.
pub(crate) fn sequences(data: &[u8]) {
    for name in ["data.csv", "data.fasta", "data"] {
        with_file(name, data, |directory| {
            let _ = Dataset::read(&directory.join(name));
        });
    }
}

/// The record of a run, and the tables that are made of it.
pub(crate) fn journal(data: &[u8]) {
    with_file(JOURNAL_FILE, data, |directory| {
        if let Ok(contents) = read_journal(directory) {
            let _ = quality_rows(&contents.records);
            let _ = distribution_rows(&contents.records);
            contents
                .records
                .iter()
                .for_each(|record| drop(BenchmarkRow::from_record(record)));
        }
    });
}

/// The tables of a run, ours and the predecessor's.
pub(crate) fn tables(data: &[u8]) {
    with_file("benchmark_20250101_120000.csv", data, |directory| {
        let path = directory.join("benchmark_20250101_120000.csv");
        let _ = read_benchmark(&path);
        let _ = read_quality(&path);
        let _ = read_distributions(&path);
    });
}
