use std::fs;

use qbench_sdk::DType;
use safetensors::Dtype;

use super::{Fixture, directory, f32s, write_tensors};
use crate::checkpoint::{Checkpoint, CheckpointError};

fn matrix() -> Fixture {
    (
        "a.weight",
        Dtype::F32,
        vec![2, 3],
        f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    )
}

fn vector() -> Fixture {
    (
        "b.bias",
        Dtype::BF16,
        vec![3],
        vec![0x80, 0x3f, 0, 0x40, 0x40, 0x40],
    )
}

fn open_error(directory: &tempfile::TempDir) -> CheckpointError {
    Checkpoint::open(directory.path()).unwrap_err()
}

#[test]
fn tensors_are_views_of_the_mapped_file() {
    let cube = ("c", Dtype::F32, vec![1, 2, 2], f32s(&[0.0, 1.0, 2.0, 3.0]));
    let directory = directory("{\"hidden_size\": 3}", &[vector(), matrix(), cube]);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(checkpoint.config()["hidden_size"], 3);
    assert_eq!(checkpoint.config_text(), "{\"hidden_size\": 3}");
    let names: Vec<_> = checkpoint.entries().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.weight", "b.bias", "c"]);

    let tensor = checkpoint.tensor("a.weight", 1).unwrap();
    assert!(tensor.is_mapped());
    let mut row = [0.0; 3];
    tensor.matrix().read_row(1, &mut row).unwrap();
    assert_eq!(row, [4.0, 5.0, 6.0]);

    let tensor = checkpoint.tensor("b.bias", 1).unwrap();
    assert_eq!(
        (tensor.rows(), tensor.cols(), tensor.dtype()),
        (1, 3, DType::BF16)
    );
    tensor.matrix().read_row(0, &mut row).unwrap();
    assert_eq!(row, [1.0, 2.0, 3.0]);

    let tensor = checkpoint.tensor("c", 1).unwrap();
    assert_eq!((tensor.rows(), tensor.cols()), (1, 4));
}

#[test]
fn a_tensor_outlives_its_checkpoint() {
    let directory = directory("{}", &[matrix()]);
    let tensor = Checkpoint::open(directory.path())
        .unwrap()
        .tensor("a.weight", 1)
        .unwrap();
    assert_eq!(tensor.matrix().data(), f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
}

#[test]
fn shards_are_one_checkpoint() {
    let directory = directory("{}", &[]);
    let path = directory.path();
    write_tensors(&path.join("one.safetensors"), &[matrix()]);
    write_tensors(&path.join("two.safetensors"), &[vector()]);
    let index =
        r#"{"metadata": {}, "weight_map": {"a.weight": "one.safetensors", "b.bias": "two.safetensors"}}"#;
    fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.entries().len(), 2);
    assert_eq!(checkpoint.tensor("b.bias", 1).unwrap().cols(), 3);
}

#[test]
fn bad_shards_are_named() {
    let fixture = directory("{}", &[]);
    let path = fixture.path();
    let index = path.join("model.safetensors.index.json");
    write_tensors(&path.join("one.safetensors"), &[matrix()]);
    write_tensors(&path.join("two.safetensors"), &[matrix(), vector()]);

    fs::write(&index, r#"{"weight_map": {"a.weight": "three.safetensors"}}"#).unwrap();
    let error = open_error(&fixture);
    assert!(matches!(&error, CheckpointError::MissingShard { shard, .. } if shard == "three.safetensors"));

    fs::write(&index, r#"{"weight_map": {"x": "one.safetensors"}}"#).unwrap();
    let error = open_error(&fixture);
    assert!(matches!(&error, CheckpointError::NotInShard { tensor, .. } if tensor == "x"));

    fs::write(
        &index,
        r#"{"weight_map": {"a.weight": "one.safetensors", "b.bias": "two.safetensors"}}"#,
    )
    .unwrap();
    let error = open_error(&fixture).to_string();
    assert!(error.contains("`a.weight`"), "{error}");
    assert!(
        error.contains("one.safetensors") && error.contains("two.safetensors"),
        "{error}"
    );

    fs::write(&index, r#"{"weights": {}}"#).unwrap();
    assert!(matches!(open_error(&fixture), CheckpointError::Json { .. }));
}

#[test]
fn what_is_missing_is_said() {
    let error = Checkpoint::open(std::path::Path::new("/no/such/model")).unwrap_err();
    assert_eq!(error.to_string(), "no such directory: `/no/such/model`");

    let empty = tempfile::tempdir().unwrap();
    let error = open_error(&empty).to_string();
    assert!(error.contains("no config.json"), "{error}");

    let fixture = directory("{}", &[]);
    let error = open_error(&fixture).to_string();
    assert!(
        error.contains("model.safetensors.index.json") && !error.contains("convert"),
        "{error}"
    );
    fs::write(fixture.path().join("pytorch_model.bin"), "").unwrap();
    let error = open_error(&fixture).to_string();
    assert!(
        error.contains("found pytorch_model.bin") && error.contains("convert"),
        "{error}"
    );
}

#[test]
fn a_config_must_be_an_object() {
    for config in ["{", "[]", ""] {
        let error = open_error(&directory(config, &[matrix()]));
        assert!(matches!(error, CheckpointError::Json { .. }), "{config}");
        assert!(error.to_string().contains("config.json"));
    }
}

#[test]
fn a_quantised_model_is_refused() {
    let fixture = directory(
        r#"{"quantization_config": {"quant_method": "bitsandbytes"}}"#,
        &[matrix()],
    );
    assert!(matches!(
        open_error(&fixture),
        CheckpointError::AlreadyQuantised { .. }
    ));
    let fixture = directory(r#"{"quantization_config": null}"#, &[matrix()]);
    assert!(Checkpoint::open(fixture.path()).is_ok());
}

#[test]
fn a_damaged_file_is_named_at_every_length() {
    let fixture = directory("{}", &[matrix()]);
    let path = fixture.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 8, 20, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open_error(&fixture);
        assert!(matches!(error, CheckpointError::SafeTensors { bytes, .. } if bytes == length as u64));
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

#[test]
fn tensors_that_cannot_be_read_are_named() {
    let integers = ("ids", Dtype::I64, vec![1], vec![0; 8]);
    let directory = directory("{}", &[matrix(), integers]);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let error = checkpoint.tensor("ids", 1).unwrap_err().to_string();
    assert!(error.contains("`ids`") && error.contains("I64"), "{error}");
    let error = checkpoint.tensor("a.wieght", 1).unwrap_err().to_string();
    assert!(error.contains("`a.wieght`"), "{error}");
    assert!(error.contains(&directory.path().display().to_string()), "{error}");
}

/// Worked out with `sha256sum config.json model.safetensors | sha256sum` for the files written here as text.
#[test]
fn the_fingerprint_is_that_of_the_files() {
    let directory = directory("{}", &[]);
    // The shortest file of weights: a header of 8 bytes that holds no tensor.
    fs::write(
        directory.path().join("model.safetensors"),
        b"\x08\0\0\0\0\0\0\0{}      ",
    )
    .unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(
        checkpoint.fingerprint(),
        "8267713198a5bd989d358a7f8e6a591911498ffba57ee5ccfae35a3215c3fa49"
    );
}
