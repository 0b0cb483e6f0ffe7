//! `8bit`: the weights.

use qbench_modes::Int8;
use qbench_sdk::{DType, Options};

use crate::golden::{FLOATS, Golden, Stored, cast, json, sha256};

#[test]
fn codes_scales_and_values_are_those_of_bitsandbytes() {
    let scheme = Int8::open(&Options::none()).unwrap();
    let golden = Golden::open("int8_weights.safetensors");
    let items = json("manifest.json")["cases"]["int8_weights"]["items"].clone();
    assert_eq!(items.as_object().unwrap().len(), 20);
    for (name, item) in items.as_object().unwrap() {
        let (case, float) = name.split_once('.').unwrap();
        let dtype = FLOATS.iter().find(|(known, _)| *known == float).unwrap().1;
        let (rows, cols) = golden.shape(&format!("{case}.x"));
        let source = cast(&golden.floats(&format!("{case}.x")), dtype);
        let stored = Stored::quantize(&scheme, &source, rows, cols, dtype, 1);
        assert_eq!(
            stored.buffer("codes"),
            golden.bytes(&format!("{name}.CB")),
            "{name}"
        );
        assert_eq!(sha256(stored.buffer("codes")), item["CB_sha256"], "{name}");
        assert_eq!(
            stored.buffer("scales"),
            golden.bytes(&format!("{name}.SCB")),
            "{name}"
        );
        assert_eq!(stored.buffer("threshold"), 6.0_f32.to_le_bytes());
        let decoded = stored.dequantize(&scheme, DType::F32);
        assert_eq!(sha256(&decoded), item["deq_f32_sha256"], "{name}");
    }
}

#[test]
fn the_weights_of_the_matmul_case_are_those_of_bitsandbytes() {
    let scheme = Int8::open(&Options::parse("threshold=2.5").unwrap()).unwrap();
    let golden = Golden::open("matmul.safetensors");
    let (rows, cols) = golden.shape("W");
    for (float, dtype) in FLOATS {
        let source = cast(&golden.floats("W"), dtype);
        let stored = Stored::quantize(&scheme, &source, rows, cols, dtype, 1);
        assert_eq!(stored.buffer("codes"), golden.bytes(&format!("int8.{float}.CB")));
        assert_eq!(
            stored.buffer("scales"),
            golden.bytes(&format!("int8.{float}.SCB"))
        );
        assert_eq!(stored.buffer("threshold"), 2.5_f32.to_le_bytes());
    }
}
