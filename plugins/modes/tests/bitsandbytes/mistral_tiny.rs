//! All quantised weights of a small model, loaded by transformers in f32 and in bf16.

use qbench_modes::{FourBit, Int8};
use qbench_sdk::{DType, Options, QuantScheme};
use serde_json::Value;

use crate::golden::{Golden, Stored, cast, json, sha256};

/// Calls `check` with the record of each module and what is stored of it.
fn each_module(scheme: &dyn QuantScheme, check: impl Fn(&str, &Value, &Stored, DType)) {
    let expected = json("mistral-tiny/expected.json");
    let model = Golden::open("mistral-tiny/model.safetensors");
    let mode = scheme.info().id;
    for (float, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        let records = expected["weights"][format!("{mode}.{float}")]
            .as_object()
            .unwrap();
        assert_eq!(records.len(), 28, "7 modules of 4 layers");
        for (module, record) in records {
            let tensor = format!("{module}.weight");
            let (rows, cols) = model.shape(&tensor);
            let source = cast(&model.floats(&tensor), dtype);
            let stored = Stored::quantize(scheme, &source, rows, cols, dtype, 2);
            check(&format!("{mode} {float} {module}"), record, &stored, dtype);
        }
    }
}

fn four_bit(scheme: FourBit, absmax: impl Fn(&Value, &Stored)) {
    each_module(&scheme, |name, record, stored, dtype| {
        assert_eq!(sha256(stored.buffer("codes")), record["packed"], "{name}");
        assert_eq!(
            sha256(&stored.dequantize(&scheme, dtype)),
            record["deq"],
            "{name}"
        );
        absmax(record, stored);
    });
}

fn plain_absmax(record: &Value, stored: &Stored) {
    assert_eq!(sha256(stored.buffer("absmax")), record["absmax"]);
}

#[test]
fn nf4_is_that_of_bitsandbytes() {
    four_bit(FourBit::open_nf4(&Options::none()).unwrap(), plain_absmax);
}

#[test]
fn fp4_is_that_of_bitsandbytes() {
    four_bit(FourBit::open_fp4(&Options::none()).unwrap(), plain_absmax);
}

#[test]
fn nf4_double_is_that_of_bitsandbytes() {
    four_bit(
        FourBit::open_nf4_double(&Options::none()).unwrap(),
        |record, stored| {
            assert_eq!(sha256(stored.buffer("absmax_codes")), record["absmax"]);
            assert_eq!(sha256(stored.buffer("absmax_scales")), record["state2_absmax"]);
            let offset = stored
                .buffer("absmax_offset")
                .iter()
                .rev()
                .map(|byte| format!("{byte:02x}"));
            assert_eq!(
                offset.collect::<String>(),
                record["offset_bits"].as_str().unwrap()
            );
        },
    );
}

#[test]
fn int8_is_that_of_bitsandbytes() {
    each_module(
        &Int8::open(&Options::none()).unwrap(),
        |name, record, stored, _| {
            assert_eq!(sha256(stored.buffer("codes")), record["CB"], "{name}");
            assert_eq!(sha256(stored.buffer("scales")), record["SCB"], "{name}");
        },
    );
}
