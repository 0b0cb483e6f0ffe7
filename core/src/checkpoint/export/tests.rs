use std::fs;
use std::path::Path;
use std::sync::Arc;

use qbench_modes::{FourBit, Int8, Standard};
use qbench_sdk::{Options, QuantScheme};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{DEFAULT_SHARD_BYTES, ExportError, ExportOptions, ExportSummary, write};
use crate::checkpoint::{Checkpoint, ModulePolicy, store::hex};

/// SHA-256 of the `model.safetensors` that the libraries themselves write for the example model, and settings that
/// tell the modes apart in its config.
///
/// `AutoModelForCausalLM.from_pretrained(example, quantization_config=BitsAndBytesConfig(...), device_map="cpu")`
/// with `load_in_8bit=True`, or `load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16` and the settings below;
/// then `.save_pretrained(DIR)`. bitsandbytes 0.50.2, transformers 5.23.0, torch 2.11.0 on a CPU with one thread.
fn modes() -> [(Arc<dyn QuantScheme>, &'static str, Value); 4] {
    let options = Options::default();
    [
        (
            Arc::new(FourBit::open_nf4(&options).unwrap()),
            "5705ed041918091b042f38bcad408b915e043ee992885ff7c5e2818ed23be442",
            json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": false}),
        ),
        (
            Arc::new(FourBit::open_fp4(&options).unwrap()),
            "0c894b6cca0033b7416fe7a08ccff6b2fa1a586eef6b97c766f29135bb022bd9",
            json!({"load_in_4bit": true, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": false}),
        ),
        (
            Arc::new(FourBit::open_nf4_double(&options).unwrap()),
            "759bc916b976bf1c98d426d7621400c863e7dd4a01511f32e75ad5b06d379f22",
            json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true}),
        ),
        (
            Arc::new(Int8::open(&options).unwrap()),
            "cb1aebd28072611a1bf6424ad0a4ff58547cbb4214db69eac4300dd1a910ea89",
            json!({"load_in_8bit": true, "llm_int8_threshold": 6.0}),
        ),
    ]
}

fn nf4() -> Arc<dyn QuantScheme> {
    Arc::new(FourBit::open_nf4(&Options::default()).unwrap())
}

fn example() -> Arc<Checkpoint> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/go-mini-12m");
    Arc::new(Checkpoint::open(&path).unwrap())
}

fn options(out: &Path) -> ExportOptions {
    ExportOptions {
        out: out.to_owned(),
        force: false,
        shard_bytes: DEFAULT_SHARD_BYTES,
        threads: 2,
    }
}

fn export(
    checkpoint: &Arc<Checkpoint>,
    scheme: &Arc<dyn QuantScheme>,
    options: &ExportOptions,
) -> Result<ExportSummary, ExportError> {
    write(checkpoint, scheme, &ModulePolicy::default(), options, &mut |_| {})
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A small model: one Linear, a norm, and a tensor of integers, with its `config`.
fn small(config: &str) -> (tempfile::TempDir, Arc<Checkpoint>) {
    let directory = tempfile::tempdir().unwrap();
    let values: Vec<u8> = (0..128_u16).flat_map(|i| (0x3f80 + i).to_le_bytes()).collect();
    let tensors = [
        (
            "layers.0.q_proj.weight",
            Dtype::BF16,
            vec![2, 64],
            values.as_slice(),
        ),
        ("layers.0.k_proj.weight", Dtype::BF16, vec![2, 32], &values[..128]),
        ("norm.weight", Dtype::BF16, vec![64], &values[..128]),
        ("position_ids", Dtype::I64, vec![2], &values[..16]),
    ]
    .map(|(name, dtype, shape, bytes)| {
        (
            name,
            safetensors::tensor::TensorView::new(dtype, shape, bytes).unwrap(),
        )
    });
    let path = directory.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    fs::write(directory.path().join("config.json"), config).unwrap();
    let checkpoint = Arc::new(Checkpoint::open(directory.path()).unwrap());
    (directory, checkpoint)
}

#[test]
fn files_are_those_of_the_libraries_themselves() {
    let parent = tempfile::tempdir().unwrap();
    let checkpoint = example();
    for (scheme, sha256, settings) in modes() {
        let id = scheme.info().id;
        let out = parent.path().join(&id);
        let summary = export(&checkpoint, &scheme, &options(&out)).unwrap();
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        assert_eq!(hex(&Sha256::digest(&bytes)), sha256, "{id}");

        let config = read_json(&out.join("config.json"));
        for (key, value) in settings.as_object().unwrap() {
            assert_eq!(&config["quantization_config"][key], value, "{id}: {key}");
        }
        assert_eq!(config["quantization_config"]["quant_method"], "bitsandbytes");
        assert_eq!(
            config["quantization_config"]["llm_int8_skip_modules"],
            Value::Null
        );
        assert_eq!(config["hidden_size"], 384);
        assert!(
            summary.files.contains(&"tokenizer.json".to_owned()),
            "{:?}",
            summary.files
        );
        // Seven Linear modules in each of six layers.
        assert_eq!(summary.weights.len(), 42);
        assert_eq!(summary.source_bytes, 25_182_032 - 8 - 6216);
    }
    assert_eq!(
        fs::read_dir(parent.path()).unwrap().count(),
        4,
        "nothing else is left"
    );
}

#[test]
fn shards_hold_the_same_tensors() {
    let parent = tempfile::tempdir().unwrap();
    let (whole, cut) = (parent.path().join("whole"), parent.path().join("cut"));
    let checkpoint = example();
    let total = export(&checkpoint, &nf4(), &options(&whole)).unwrap().bytes;
    let limit = 3_500_000;
    let shard_bytes = limit;
    export(
        &checkpoint,
        &nf4(),
        &ExportOptions {
            shard_bytes,
            ..options(&cut)
        },
    )
    .unwrap();

    let bytes = fs::read(whole.join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let index = read_json(&cut.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], total);
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), whole.len());
    let mut files: Vec<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    files.sort_unstable();
    files.dedup();
    assert_eq!(
        files.first(),
        Some(&&*format!("model-00001-of-{:05}.safetensors", files.len()))
    );
    assert!(files.len() >= 3);
    for file in files {
        let bytes = fs::read(cut.join(file)).unwrap();
        assert!(bytes.len() < limit as usize + 20_000, "{file}: {}", bytes.len());
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            assert_eq!(map[name], file);
            let expected = whole.tensor(name).unwrap();
            assert_eq!(tensor, expected, "{name}");
        }
    }
}

#[test]
fn skipped_modules_stay_and_are_listed() {
    let (directory, checkpoint) = small("{}");
    let out = directory.path().join("out");
    let policy = ModulePolicy::new(&["k_proj".to_owned()], &[]).unwrap();
    write(&checkpoint, &nf4(), &policy, &options(&out), &mut |_| {}).unwrap();
    let config = read_json(&out.join("config.json"));
    assert_eq!(
        config["quantization_config"]["llm_int8_skip_modules"],
        json!(["lm_head", "embed_out", "layers.0.k_proj"])
    );
    let bytes = fs::read(out.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(
        tensors.tensor("layers.0.k_proj.weight").unwrap().dtype(),
        Dtype::BF16
    );
    assert_eq!(tensors.tensor("layers.0.q_proj.weight").unwrap().shape(), [64, 1]);
    assert_eq!(tensors.tensor("position_ids").unwrap().dtype(), Dtype::I64);
}

#[test]
fn an_almost_empty_config_is_enough() {
    for config in [
        "{}",
        r#"{"torch_dtype": null, "dtype": null, "quantization_config": null}"#,
    ] {
        let (directory, checkpoint) = small(config);
        let out = directory.path().join("out");
        let summary = export(&checkpoint, &nf4(), &options(&out)).unwrap();
        assert_eq!(summary.files, ["config.json", "model.safetensors"]);
        let config = read_json(&out.join("config.json"));
        assert_eq!(config["torch_dtype"], "bfloat16");
        assert_eq!(
            config["quantization_config"]["bnb_4bit_compute_dtype"],
            "bfloat16"
        );
    }
    let (directory, checkpoint) = small(r#"{"dtype": "float32"}"#);
    let out = directory.path().join("out");
    export(&checkpoint, &nf4(), &options(&out)).unwrap();
    let config = read_json(&out.join("config.json"));
    assert_eq!(
        (&config["dtype"], &config["torch_dtype"]),
        (&json!("float32"), &Value::Null)
    );
}

#[test]
fn companions_are_copied_and_other_weights_are_not() {
    let (directory, checkpoint) = small("{}");
    for file in [
        "tokenizer.json",
        "pytorch_model.bin",
        "x.index.json",
        ".gitattributes",
        "README.md",
    ] {
        fs::write(directory.path().join(file), file).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    let summary = export(&checkpoint, &nf4(), &options(out.path())).unwrap();
    assert_eq!(
        summary.files,
        ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(
        fs::read_to_string(out.path().join("README.md")).unwrap(),
        "README.md"
    );
}

#[test]
fn modes_without_a_format_are_refused() {
    let (directory, checkpoint) = small("{}");
    let out = directory.path().join("out");
    let standard: Arc<dyn QuantScheme> = Arc::new(Standard::open(&Options::default()).unwrap());
    let error = export(&checkpoint, &standard, &options(&out))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`standard`") && error.contains("dense bf16"),
        "{error}"
    );
    assert!(!out.exists());
}

#[test]
fn what_is_there_is_kept_unless_forced() {
    let (directory, checkpoint) = small("{}");
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let error = export(&checkpoint, &nf4(), &options(&out)).unwrap_err();
    assert!(matches!(error, ExportError::NotEmpty { .. }), "{error}");
    assert!(out.join("mine").exists());

    let force = true;
    export(
        &checkpoint,
        &nf4(),
        &ExportOptions {
            force,
            ..options(&out)
        },
    )
    .unwrap();
    assert!(out.join("config.json").exists() && !out.join("mine").exists());
    assert_eq!(
        fs::read_dir(parent.path()).unwrap().count(),
        1,
        "nothing else is left"
    );

    let error = export(
        &checkpoint,
        &nf4(),
        &ExportOptions {
            force,
            ..options(directory.path())
        },
    )
    .unwrap_err();
    assert!(matches!(error, ExportError::Overlap { .. }), "{error}");
    assert!(directory.path().join("model.safetensors").exists());
}

#[test]
fn an_error_leaves_nothing_behind() {
    let (_directory, checkpoint) = small("{}");
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let error = export(&checkpoint, &nf4(), &options(&file.join("out")))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");

    let only = ModulePolicy::new(&[], &["no_such_module".to_owned()]).unwrap();
    let out = parent.path().join("out");
    assert!(write(&checkpoint, &nf4(), &only, &options(&out), &mut |_| {}).is_err());
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[test]
fn files_have_the_permissions_of_other_files() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, checkpoint) = small("{}");
    let out = directory.path().join("out");
    export(&checkpoint, &nf4(), &options(&out)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (file, folder) = (directory.path().join("plain"), directory.path().join("folder"));
    fs::write(&file, "").unwrap();
    fs::create_dir(&folder).unwrap();
    assert_eq!(mode(&out), mode(&folder));
    assert_eq!(mode(&out.join("model.safetensors")), mode(&file));
    assert_eq!(mode(&out.join("config.json")), mode(&file));
}
