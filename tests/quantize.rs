//! `qbench quantize`: the files that transformers loads, from config and weights alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{fs, path::Path};

use qbench_tests::{fails, qbench, repository, stderr, stdout};

fn model() -> std::path::PathBuf {
    repository().join("examples/go-mini-12m")
}

fn quantize(model: &Path, mode: &str, out: &Path) -> assert_cmd::Command {
    let mut command = qbench();
    command
        .arg("quantize")
        .arg(model)
        .args(["--mode", mode, "--out"])
        .arg(out);
    command
}

#[test]
fn a_model_is_written_in_the_format_of_bitsandbytes() {
    let place = tempfile::tempdir().unwrap();
    // Config and weights are enough, and optional keys may be absent.
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::copy(
        model().join("model.safetensors"),
        source.join("model.safetensors"),
    )
    .unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(model().join("config.json")).unwrap()).unwrap();
    let keys = config.as_object_mut().unwrap();
    keys.remove("head_dim");
    keys["pad_token_id"] = serde_json::Value::Null;
    fs::write(source.join("config.json"), config.to_string()).unwrap();

    let out = place.path().join("out");
    let output = quantize(&source, "nf4_double", &out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("42 weights quantised with 4bit_nf4_double"),
        "{}",
        stdout(&output)
    );
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    let quantization = &config["quantization_config"];
    assert_eq!(quantization["quant_method"], "bitsandbytes");
    assert_eq!(quantization["bnb_4bit_quant_type"], "nf4");
    assert_eq!(quantization["bnb_4bit_use_double_quant"], true);
    let weights = fs::read(out.join("model.safetensors")).unwrap();
    let header_length = usize::try_from(u64::from_le_bytes(weights[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&weights[8..8 + header_length]).unwrap();
    for suffix in [
        "",
        ".absmax",
        ".quant_map",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_state.bitsandbytes__nf4",
    ] {
        let name = format!("model.layers.0.mlp.down_proj.weight{suffix}");
        assert!(header.get(&name).is_some(), "{name} is not in the file");
    }
    assert_eq!(
        header["model.layers.0.mlp.down_proj.weight"]["shape"],
        serde_json::json!([384 * 1024 / 2, 1])
    );
}

#[test]
fn what_cannot_be_written_is_said_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    fails(
        &mut quantize(&model(), "standard", &out),
        2,
        &["standard", "no format in bitsandbytes"],
    );
    fails(&mut quantize(&model(), "nf6", &out), 2, &["unknown mode `nf6`"]);
    fails(
        &mut quantize(Path::new("no/model"), "nf4", &out),
        2,
        &["no/model"],
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "keep me").unwrap();
    fails(
        &mut quantize(&model(), "nf4", &out),
        2,
        &["not an empty directory"],
    );
    assert_eq!(fs::read_to_string(out.join("mine.txt")).unwrap(), "keep me");
}
