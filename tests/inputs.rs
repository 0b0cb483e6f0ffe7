//! Bad input gives one clear message with the file's name and an exit code, never a panic, and leaves nothing half-done.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use qbench_tests::{benchmark_table, fails, qbench, repository, rows, small_run};
use tempfile::TempDir;

/// A directory for results that must not appear.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A run over `data`.
    fn run_over(&self, data: &Path) -> Command {
        let mut command = qbench();
        command
            .args(["run", "--data"])
            .arg(data)
            .arg("--outdir")
            .arg(self.path("results"));
        command
    }

    /// The default model with `replaced` instead of its file of that name.
    fn model(&self, replaced: &str, content: Option<&[u8]>) -> PathBuf {
        let model = self.path("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            if name != replaced {
                symlink(
                    repository().join("examples/go-mini-12m").join(name),
                    model.join(name),
                )
                .unwrap();
            }
        }
        if let Some(content) = content {
            fs::write(model.join(replaced), content).unwrap();
        }
        model
    }

    fn run_model(&self, model: &Path) -> Command {
        let mut command = small_run(&self.path("results"));
        command.args(["--modes", "standard", "--model"]).arg(model);
        command
    }

    fn nothing_was_written(&self) {
        assert!(!self.path("results").exists());
    }
}

fn original(name: &str) -> Vec<u8> {
    fs::read(repository().join("examples/go-mini-12m").join(name)).unwrap()
}

#[test]
fn a_table_without_the_columns() {
    let place = Place::new();
    let data = place.file("reads.csv", "genome,sequence\na,ACGT\n");
    fails(
        &mut place.run_over(&data),
        2,
        &["reads.csv", "genome_id", "seq", "sequence"],
    );
    place.nothing_was_written();
}

#[test]
fn an_empty_fasta_file() {
    let place = Place::new();
    let data = place.file("empty.fasta", "");
    fails(&mut place.run_over(&data), 2, &["empty.fasta"]);
    place.nothing_was_written();
}

#[test]
fn a_sequence_of_ns_only() {
    let place = Place::new();
    let data = place.file("ns.fa", ">good\nACGTACGT\n>unknown\nNNNNNNNN\n");
    fails(&mut place.run_over(&data), 2, &["ns.fa", "unknown"]);
    place.nothing_was_written();
}

#[test]
fn data_that_are_not_there() {
    let place = Place::new();
    fails(
        &mut place.run_over(Path::new("no/such/file.csv")),
        2,
        &["no/such/file.csv"],
    );
    place.nothing_was_written();
}

#[test]
fn a_truncated_checkpoint() {
    let place = Place::new();
    let whole = original("model.safetensors");
    let model = place.model("model.safetensors", Some(&whole[..whole.len() / 2]));
    fails(&mut place.run_model(&model), 2, &["model.safetensors"]);
    place.nothing_was_written();
}

#[test]
fn a_directory_without_weights_or_config() {
    let place = Place::new();
    let model = place.model("model.safetensors", None);
    fails(&mut place.run_model(&model), 2, &["model.safetensors"]);
    place.nothing_was_written();
    let place = Place::new();
    let model = place.model("config.json", None);
    fails(&mut place.run_model(&model), 2, &["config.json"]);
}

#[test]
fn an_unknown_architecture() {
    let place = Place::new();
    let config = String::from_utf8(original("config.json"))
        .unwrap()
        .replace("\"mistral\"", "\"caduceus\"");
    let model = place.model("config.json", Some(config.as_bytes()));
    fails(
        &mut place.run_model(&model),
        2,
        &["config.json", "caduceus", "mistral", "llama"],
    );
    place.nothing_was_written();
}

#[test]
fn a_missing_tensor_is_named_in_the_row_and_on_the_screen() {
    let place = Place::new();
    // The header's text names the tensors; the same number of bytes, so that everything else stays where it is.
    let mut bytes = original("model.safetensors");
    let name = b"model.layers.3.mlp.up_proj.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    bytes[at..at + name.len()].copy_from_slice(b"model.layers.3.mlp.ap_proj.weight");
    let model = place.model("model.safetensors", Some(&bytes));
    fails(
        &mut place.run_model(&model),
        1,
        &["model.layers.3.mlp.up_proj.weight", model.to_str().unwrap()],
    );
    let rows = rows(&benchmark_table(&place.path("results")));
    assert_eq!(rows[0]["status"], "error");
    assert!(
        rows[0]["reason"].contains("model.layers.3.mlp.up_proj.weight"),
        "{rows:?}"
    );
}

#[test]
fn a_model_that_is_not_there() {
    let place = Place::new();
    fails(
        &mut place.run_model(Path::new("pGenomeOcean/GenomeOcean-100M")),
        2,
        &["hf download pGenomeOcean/GenomeOcean-100M"],
    );
    fails(
        &mut place.run_model(Path::new("./nothing/here")),
        2,
        &["nothing/here"],
    );
    place.nothing_was_written();
}

#[test]
fn results_that_cannot_be_written() {
    let place = Place::new();
    let file = place.file("file", "");
    fails(
        &mut small_run(&file.join("results")),
        2,
        &["cannot write results into", "file/results"],
    );
}

#[test]
fn an_impossible_condition_is_a_row_with_its_reason() {
    let place = Place::new();
    let mut command = qbench();
    command.args([
        "run",
        "--modes",
        "standard",
        "--bins",
        "5000,90000",
        "--max-batches",
        "1",
        "--warmup",
        "0",
    ]);
    command
        .args([
            "--num-repeats",
            "1",
            "--skip-quality",
            "--samples-per-cond",
            "1",
            "--outdir",
        ])
        .arg(place.path("results"));
    fails(&mut command, 1, &["bin~90000"]);
    let rows = rows(&benchmark_table(&place.path("results")));
    let status = |condition: &str| &rows.iter().find(|row| row["condition"] == condition).unwrap()["status"];
    assert_eq!(
        (status("bin~5000").as_str(), status("bin~90000").as_str()),
        ("ok", "error")
    );
}

#[test]
fn a_directory_without_results() {
    let place = Place::new();
    fails(
        qbench()
            .args(["analyze", "--results-dir"])
            .arg(place.path("none")),
        2,
        &["none"],
    );
    fs::create_dir(place.path("empty")).unwrap();
    fails(
        qbench()
            .args(["analyze", "--results-dir"])
            .arg(place.path("empty")),
        2,
        &["empty", "benchmark_"],
    );
}
