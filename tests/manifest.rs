//! What a run leaves besides its measurements: the manifest, and the table of weights.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::Path,
    process::{Command as Process, Stdio},
    thread,
    time::Duration,
};

use qbench_tests::{built, rows, small_measurement, small_run, stderr, stdout};
use serde_json::{Value, json};

fn manifest(outdir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(outdir.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn the_manifest_and_the_memory_table_tell_what_was_run() {
    let outdir = tempfile::tempdir().unwrap();
    let run = || {
        let output = small_measurement(outdir.path())
            .args(["--modes", "nf4", "--memory-table"])
            .env("OMP_NUM_THREADS", "3")
            .env("QBENCH_SECRET", "hidden")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let said = run();
    // 4 bits and an f32 scale for each 64 of them.
    let line = said
        .lines()
        .find(|line| line.contains("4bit_nf4") && line.contains("layers.0.mlp.down_proj.weight"))
        .unwrap();
    assert!(
        line.contains("qbench.block-codebook/1") && line.contains("4.50"),
        "{line}"
    );

    let first = manifest(outdir.path());
    assert_eq!(first["schema"], "qbench.manifest/1");
    assert_eq!(first["environment"]["OMP_NUM_THREADS"], "3");
    assert!(!first.to_string().contains("hidden"));
    assert_eq!(first["program"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(first["program"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(first["plan"]["modes"][1]["mode"], "4bit_nf4");
    assert_eq!(first["plan"]["modes"][1]["sha256"].as_str().unwrap().len(), 64);
    let crate_of = |plugin: &Value| plugin["plugin"].as_str().unwrap().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        [
            crate_of(&first["plan"]["modes"][1]),
            crate_of(&first["plan"]["configuration"]["backend"])
        ],
        ["modes", "cpu"].map(|name| format!("qbench-{name} {version}"))
    );
    let configuration = &first["plan"]["configuration"];
    for hash in ["model_sha256", "data_sha256"] {
        assert_eq!(configuration[hash].as_str().unwrap().len(), 64, "{hash}");
    }
    assert_eq!(configuration["seed"], 42);
    // What a machine does not tell has a reason.
    let machine = &first["machine"];
    assert!(!machine["cpu_flags"].as_array().unwrap().is_empty());
    for (fact, missing) in [
        ("governor", machine["governor"].is_null()),
        ("numa_nodes", machine["numa_nodes"] == json!({})),
    ] {
        assert_eq!(missing, machine["missing"][fact].is_string(), "{fact}: {machine}");
    }
    assert_eq!(first["cells"].as_array().unwrap().len(), 2);
    assert_eq!(first["outcome"]["ok"], 2);
    let weights = first["weights"]["4bit_nf4"].as_array().unwrap();
    assert!(
        weights
            .iter()
            .any(|weight| weight["execution"].as_str().unwrap().starts_with("native"))
    );
    assert!(!first["finished"].as_str().unwrap().is_empty());
    assert!(first["gpu"].is_null() && !first["gpu_reason"].as_str().unwrap().is_empty());

    let table = rows(&outdir.path().join("analysis/memory_table.csv"));
    assert_eq!(
        table.len(),
        weights.len() + first["weights"]["standard"].as_array().unwrap().len()
    );

    run();
    let second = manifest(outdir.path());
    assert_eq!(second["earlier"].as_array().unwrap().len(), 1);
    assert_eq!(second["earlier"][0]["started"], first["started"]);
    assert_eq!(second["earlier"][0]["program"], first["program"]);
    assert_eq!(
        second["weights"], first["weights"],
        "kept cells tell of their weights as well"
    );
}

#[test]
fn a_run_of_quality_alone_tells_of_its_weights_as_well() {
    let outdir = tempfile::tempdir().unwrap();
    let output = small_run(outdir.path())
        .args(["--skip-performance", "--modes", "nf4"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let manifest = manifest(outdir.path());
    let weights = manifest["weights"].as_object().unwrap();
    // Those of the noise floor are nobody's mode.
    let modes: Vec<&str> = weights.keys().map(String::as_str).collect();
    assert_eq!(modes, ["4bit_nf4", "standard"]);
    let quantised = |weight: &&Value| weight["layout"] == "qbench.block-codebook/1";
    let native = |weight: &Value| weight["execution"].as_str().unwrap().starts_with("native");
    let nf4 = weights["4bit_nf4"].as_array().unwrap();
    // Seven projections in each of six layers.
    assert_eq!(nf4.iter().filter(quantised).count(), 42);
    assert!(nf4.iter().filter(quantised).all(native));
    let table = rows(&outdir.path().join("analysis/memory_table.csv"));
    assert_eq!(
        table.len(),
        nf4.len() + weights["standard"].as_array().unwrap().len()
    );
}

#[test]
fn a_killed_run_leaves_a_manifest_that_says_so() {
    let outdir = tempfile::tempdir().unwrap();
    let mut command = Process::new(built().join("qbench"));
    let mut host = command
        .args(small_run(outdir.path()).get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !outdir.path().join("manifest.json").exists() {
        thread::sleep(Duration::from_millis(2));
    }
    host.kill().unwrap();
    host.wait().unwrap();
    let manifest = manifest(outdir.path());
    assert_eq!(manifest["finished"], "");
    assert_eq!(manifest["plan"]["modes"].as_array().unwrap().len(), 5);
}
