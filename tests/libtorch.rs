//! The libtorch plugin on the CPU, where libtorch is set up (`plugins/libtorch/setup`); without it these tests have
//! nothing to try and say so. What transformers and bitsandbytes computed is in `parity`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::print_stdout, reason = "figures, and what was left out")]

mod agreement;

use std::path::{Path, PathBuf};

use agreement::{Engine, MODES, check_cache, check_modes};
use qbench_sdk::DType;
use qbench_tests::{benchmark_table, fails, libtorch, qbench, rows, small_run, stderr, stdout};
use serde_json::Value;

/// The plugin's file.
fn plugin() -> Option<PathBuf> {
    let file = libtorch().map(|folder| folder.join("libqbench_libtorch.so"));
    if file.is_none() {
        println!("left out: libtorch is not set up (plugins/libtorch/setup)");
    }
    file
}

/// What the plugin is told where libtorch is: the environment of the tests has no cache folder.
fn torch_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("LIBTORCH").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(home);
            cache.unwrap().join("qbench/libtorch/torch")
        },
        PathBuf::from,
    )
}

fn engine(file: PathBuf) -> Engine {
    Engine {
        id: "libtorch",
        file,
        device: "cpu",
    }
}

#[test]
fn it_agrees_with_the_cpu_backend() {
    if let Some(file) = plugin() {
        // Operations in f16 are tried by the plugin's own tests: torch has no quick ones for a CPU.
        check_modes(&engine(file), &[DType::F32, DType::BF16], &MODES, |_, _, _| ());
    }
}

#[test]
fn its_cache_goes_on_where_a_pass_ended() {
    if let Some(file) = plugin() {
        check_cache(&engine(file), &["standard"]);
    }
}

#[test]
fn it_conforms() {
    let Some(file) = plugin() else { return };
    let output = qbench()
        .env("LIBTORCH", torch_folder())
        .args(["plugin", "check", "--json"])
        .arg(file)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let subjects = report["subjects"].as_array().unwrap().iter();
    let findings: Vec<&Value> = subjects
        .flat_map(|subject| subject["findings"].as_array().unwrap())
        .collect();
    assert!(findings.len() >= 14, "{report:#}");
    assert!(
        findings.iter().all(|finding| finding["verdict"] == "pass"),
        "{report:#}"
    );
}

#[test]
fn it_is_listed_with_what_it_found_or_why_not() {
    let Some(file) = plugin() else { return };
    let list = |torch: &Path| {
        let mut command = qbench();
        command
            .env("LIBTORCH", torch)
            .args(["plugin", "list", "--plugin"])
            .arg(&file);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let found = list(&torch_folder());
    assert!(
        found.contains("device cpu: ") && found.contains("torch 2.11."),
        "{found}"
    );
    assert!(
        found.contains("with CUDA") || found.contains("without CUDA: "),
        "{found}"
    );
    let missing = list(Path::new("/nonexistent"));
    assert!(
        missing.contains("no device: ") && missing.contains("LIBTORCH is set") && missing.contains("setup"),
        "{missing}"
    );
}

#[test]
fn without_libtorch_a_run_says_what_to_do() {
    let Some(file) = plugin() else { return };
    let results = tempfile::tempdir().unwrap();
    let mut run = small_run(&results.path().join("run"));
    run.env("LIBTORCH", "/nonexistent")
        .env("QBENCH_PLUGIN_PATH", file.parent().unwrap())
        .args(["--backend", "libtorch"]);
    fails(&mut run, 2, &["no libtorch 2.11", "/nonexistent", "setup"]);
}

#[test]
fn a_run_gives_every_mode_a_row_and_compares_with_another_backend() {
    let Some(file) = plugin() else { return };
    let results = tempfile::tempdir().unwrap();
    let run = |backend: &str| {
        let folder = results.path().join(backend);
        let output = small_run(&folder)
            .env("LIBTORCH", torch_folder())
            .env("QBENCH_PLUGIN_PATH", file.parent().unwrap())
            .args(["--backend", backend])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        folder
    };
    let (cpu, torch) = (run("cpu"), run("libtorch"));
    let table = rows(&benchmark_table(&torch));
    assert!(
        !table.is_empty() && table.iter().all(|row| row["backend"] == "libtorch"),
        "{table:?}"
    );
    let compare = |arguments: &[&str]| {
        let mut command = qbench();
        command.arg("compare").args([&cpu, &torch]).args(arguments);
        command
    };
    fails(&mut compare(&[]), 2, &["no cell in common", "--across backend"]);
    let output = compare(&["--across", "backend", "--fail-on", "never"])
        .output()
        .unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for mode in ["standard", "8bit", "4bit_nf4", "4bit_fp4", "4bit_nf4_double"] {
        assert!(text.contains(mode), "`{mode}` is not in: {text}");
    }
}

/// In a half precision, what is held has to be what layouts declare, or rows are invalid.
#[test]
fn a_run_in_bf16_is_valid() {
    let Some(file) = plugin() else { return };
    let results = tempfile::tempdir().unwrap();
    let output = small_run(results.path())
        .env("LIBTORCH", torch_folder())
        .env("QBENCH_PLUGIN_PATH", file.parent().unwrap())
        .args(["--backend", "libtorch", "--precision", "bfloat16"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn too_little_memory_is_the_row_of_a_cell() {
    let Some(file) = plugin() else { return };
    let results = tempfile::tempdir().unwrap();
    let outdir = results.path().join("run");
    let output = qbench()
        .env("LIBTORCH", torch_folder())
        .env("QBENCH_PLUGIN_PATH", file.parent().unwrap())
        // The model and libtorch fit into 0.3 GB, a pass over all sequences at once does not.
        .args([
            "run",
            "--backend",
            "libtorch",
            "--threads",
            "2",
            "--memory-limit",
            "0.3",
        ])
        .args([
            "--modes",
            "standard",
            "8bit",
            "--samples-per-cond",
            "26",
            "--batch-sizes",
            "26",
        ])
        .args([
            "--warmup",
            "1",
            "--num-repeats",
            "1",
            "--time-budget",
            "0",
            "--skip-quality",
            "--outdir",
        ])
        .arg(&outdir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let table = rows(&benchmark_table(&outdir));
    assert_eq!(table.len(), 2, "{table:?}");
    for row in table {
        assert_eq!(row["status"], "out_of_memory", "{row:?}");
        assert!(
            row["reason"].contains("torch ") && row["reason"].contains("can't allocate memory"),
            "{row:?}"
        );
    }
}
