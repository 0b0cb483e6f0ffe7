//! What is fuzzed: each parser of ours behind a function that takes any bytes and must neither panic nor ask for more
//! memory than its input explains. Used by the smoke run of the tests and by the targets of cargo-fuzz.

use std::{collections::BTreeMap, fs, path::Path};

use qbench::{
    plugins::{Sidecar, check_library},
    sweep::{SweepDirectory, SweepStatus},
};
use qbench_architectures::DecoderConfig;
use qbench_core::{
    analysis::read_quant_summary,
    checkpoint::{Checkpoint, Dimensions},
    data::Dataset,
    measure::energy::{Trace, account},
    quality::{Reference, read_label},
    results::{
        BenchmarkRow, JOURNAL_FILE, distribution_rows, quality_rows, read_benchmark, read_distributions,
        read_journal, read_quality,
    },
    sweep::{Rule, SweepPlan, merge},
    workload::Tokenizer,
};
use qbench_sdk::{CudaKernel, DType, Layout, MatrixMut, Options, layout::decode};

/// A target: its name and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 15] = [
    ("layout", layout),
    ("kernel", kernel),
    ("sidecar", sidecar),
    ("library", library),
    ("config", config),
    ("tokenizer", tokenizer),
    ("checkpoint", checkpoint),
    ("sequences", sequences),
    ("journal", journal),
    ("tables", tables),
    ("reference", reference),
    ("trace", trace),
    ("plan", plan),
    ("sweep", sweep),
    ("attempt", attempt),
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

/// The head of a plugin's file.
pub(crate) fn library(data: &[u8]) {
    with_file("libplugin.so", data, |directory| {
        let _ = check_library(&directory.join("libplugin.so"));
    });
}

/// A model's tokenizer, and what it makes of a window.
pub(crate) fn tokenizer(data: &[u8]) {
    with_file("tokenizer.json", data, |directory| {
        let Ok(tokenizer) = Tokenizer::from_directory(directory) else {
            return;
        };
        let _ = (tokenizer.pad_id(), tokenizer.vocabulary_size());
        let _ = tokenizer
            .windows(64)
            .and_then(|windows| windows.tokenise("ACGTNACGTTTTTTTTACGA"));
    });
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

/// A file of sequences, whatever its name promises; gzip is told by its first bytes.
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
        let _ = read_quant_summary(&path);
    });
}

/// The index of a reference that an earlier run kept, beside outputs of one sequence of two tokens.
pub(crate) fn reference(data: &[u8]) {
    with_file("index.json", data, |directory| {
        for (name, values) in [("logits.f32", 2 * 3), ("pooled.f32", 2 * 2)] {
            fs::write(directory.join(name), vec![0; values * 4]).expect("a temporary file");
        }
        let _ = read_label(directory);
        if let Ok(reference) = Reference::open(directory, &BTreeMap::new(), 3, 2, &[2]) {
            let _ = (
                reference.logits(0).len(),
                reference.pooled(0, 1).len(),
                reference.sliding(0),
            );
        }
    });
}

/// A recorded energy trace.
pub(crate) fn trace(data: &[u8]) {
    if let Ok(trace) = serde_json::from_slice::<Trace>(data) {
        let _ = account(&trace);
    }
}

/// A sweep's plan, with what its lists and wildcards make.
pub(crate) fn plan(data: &[u8]) {
    with_file("plan.toml", data, |directory| {
        let Ok(plan) = SweepPlan::read(&directory.join("plan.toml")) else {
            return;
        };
        let _ = plan.configurations().map(|all| all.len());
        for axes in plan
            .exclude
            .iter()
            .chain(plan.slurm.group.iter().map(|group| &group.when))
        {
            let _ = Rule::new(axes, "exclude");
        }
    });
}

/// What a sweep's directory holds: the input is what its tasks share, or the list of its tasks.
pub(crate) fn sweep(data: &[u8]) {
    for (name, other) in [
        ("sweep.json", "tasks/000/tasks.jsonl"),
        ("tasks/000/tasks.jsonl", "sweep.json"),
    ] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        fs::create_dir_all(path.join("tasks/000")).expect("a temporary directory");
        fs::write(path.join(name), data).expect("a temporary file");
        let good = if other == "sweep.json" { SWEEP } else { TASKS };
        fs::write(path.join(other), good).expect("a temporary file");
        let Ok(sweep) = SweepDirectory::open(path) else {
            continue;
        };
        let _ = sweep.task(1);
        if let Ok(status) = SweepStatus::read(&sweep)
            && let Ok(shared) = sweep.sweep()
        {
            let _ = (status.lines(&shared), status.to_submit());
        }
    }
}

/// The journal of an attempt at a task, merged.
pub(crate) fn attempt(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    fs::create_dir_all(path.join("tasks/000/000000-1")).expect("a temporary directory");
    fs::write(path.join("sweep.json"), SWEEP).expect("a temporary file");
    fs::write(path.join("tasks/000/tasks.jsonl"), TASKS).expect("a temporary file");
    fs::write(path.join("tasks/000/000000-1").join(JOURNAL_FILE), data).expect("a temporary file");
    let sweep = SweepDirectory::open(path).expect("a sweep");
    let merged =
        merge(&path.join(JOURNAL_FILE), sweep.task_files().expect("tasks")).expect("they can be read");
    // Whatever the journal says, each cell of the plan is accounted for.
    assert_eq!((merged.expected, merged.done + merged.unfinished.len()), (2, 2));
}

/// A sweep of two tasks of a cell each.
pub(crate) const SWEEP: &str = r#"{"schema":"qbench.sweep/1","id":"00000000","name":"s","created":"2026-01-01T00:00:00Z","program":"/","program_sha256":"","working_directory":"/","executor":"local","slurm":{},"groups":[{"sbatch":["--time=10"]},{}],"configurations":1,"tasks":2,"cells":2,"threads":2}"#;
/// Its tasks.
pub(crate) const TASKS: &str = concat!(
    r#"{"task":0,"configuration":0,"group":1,"cells":[{"kind":"performance","model":"m","backend":"cpu","device":"cpu","precision":"float32","mode":"4bit_nf4","condition":"full","batch_size":4,"repeat":0}]}"#,
    "\n",
    r#"{"task":1,"configuration":0,"group":0,"cells":[{"kind":"quality","model":"m","backend":"cpu","device":"cpu","precision":"float32","mode":"4bit_nf4","condition":"full","batch_size":4,"repeat":0}]}"#,
    "\n"
);
