use std::path::{Path, PathBuf};

use qbench_sdk::DType;

use super::directory;
use crate::checkpoint::{Checkpoint, CheckpointError};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/go-mini-12m")
        .join(file)
}

fn config(extra: &str) -> tempfile::TempDir {
    let text = format!(
        r#"{{"model_type": "llama", "hidden_size": 96, "num_hidden_layers": 1, "intermediate_size": 100,
            "num_attention_heads": 2, "vocab_size": 131 {extra}}}"#
    );
    directory(&text, &[])
}

fn open(directory: &tempfile::TempDir, seed: u64) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::synthetic(&directory.path().join("config.json"), seed)
}

#[test]
fn names_shapes_and_types_are_those_of_a_real_checkpoint() {
    let real = Checkpoint::open(&example("")).unwrap();
    let synthetic = Checkpoint::synthetic(&example("config.json"), 1).unwrap();
    assert!(synthetic.is_synthetic() && !real.is_synthetic());
    assert_eq!(
        synthetic.entries().collect::<Vec<_>>(),
        real.entries().collect::<Vec<_>>()
    );
}

#[test]
fn bits_depend_on_seed_name_and_index_alone() {
    let config = config("");
    let bytes = |seed, name: &str, threads| {
        let tensor = open(&config, seed).unwrap().tensor(name, threads).unwrap();
        tensor.matrix().data().to_vec()
    };
    let first = bytes(7, "lm_head.weight", 1);
    assert_eq!(first.len(), 131 * 96 * 2);
    for threads in [2, 3, 5, 64] {
        assert_eq!(bytes(7, "lm_head.weight", threads), first, "{threads} threads");
    }
    assert_ne!(bytes(8, "lm_head.weight", 1), first);
    assert_ne!(bytes(7, "model.embed_tokens.weight", 1), first);
}

#[test]
fn values_have_mean_0_and_deviation_0_02() {
    let config = config(r#", "torch_dtype": "float32""#);
    let checkpoint = open(&config, 3).unwrap();
    let tensor = checkpoint.tensor("lm_head.weight", 2).unwrap();
    let mut values = vec![0.0; 131 * 96];
    qbench_sdk::widen(tensor.matrix().data(), DType::F32, &mut values).unwrap();
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
    // Four standard errors: 0.02 / sqrt n of the mean, 0.02 / sqrt 2n of the deviation; the stream is fixed.
    assert!(mean.abs() < 4.0 * 0.02 / n.sqrt(), "{mean}");
    assert!(
        (deviation - 0.02).abs() < 4.0 * 0.02 / (2.0 * n).sqrt(),
        "{deviation}"
    );
}

#[test]
fn norms_are_one() {
    let config = config("");
    let norm = open(&config, 3).unwrap().tensor("model.norm.weight", 2).unwrap();
    assert_eq!(norm.matrix().data(), [0x80, 0x3f].repeat(96));
}

#[test]
fn tied_models_have_no_head() {
    let config = config(r#", "tie_word_embeddings": true"#);
    let checkpoint = open(&config, 3).unwrap();
    assert!(checkpoint.entries().all(|(name, _)| name != "lm_head.weight"));
    assert_eq!(checkpoint.entries().len(), 11);
}

#[test]
fn the_type_is_read_from_either_key() {
    for (extra, expected) in [
        ("", DType::BF16),
        (r#", "dtype": "float16""#, DType::F16),
        (r#", "torch_dtype": "float32", "dtype": null"#, DType::F32),
        (r#", "torch_dtype": "torch.bfloat16""#, DType::BF16),
    ] {
        let checkpoint = open(&config(extra), 0).unwrap();
        assert!(
            checkpoint
                .entries()
                .all(|(_, entry)| entry.dtype == Some(expected)),
            "{extra}"
        );
    }
    let error = open(&config(r#", "dtype": "int8""#), 0).unwrap_err().to_string();
    assert!(error.contains("`dtype`") && error.contains("int8"), "{error}");
}

#[test]
fn other_models_are_refused() {
    let fixture = directory(r#"{"model_type": "bert"}"#, &[]);
    let error = open(&fixture, 0).unwrap_err().to_string();
    assert!(
        error.contains("\"bert\"") && error.contains("mistral and llama"),
        "{error}"
    );
    let error = open(&config(r#", "attention_bias": true"#), 0).unwrap_err();
    assert!(error.to_string().contains("attention_bias"));
    let error = Checkpoint::synthetic(Path::new("/no/config.json"), 0).unwrap_err();
    assert!(error.to_string().contains("/no/config.json"));
}

#[test]
fn the_fingerprint_depends_on_the_seed() {
    let config = config("");
    let fingerprint = |seed| open(&config, seed).unwrap().fingerprint().to_owned();
    assert_eq!(fingerprint(1), fingerprint(1));
    assert_ne!(fingerprint(1), fingerprint(2));
}
