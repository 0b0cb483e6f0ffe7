//! Against bitsandbytes and torch; `tests/fixtures/bitsandbytes/README.md` says what the files hold.

use std::fmt::Write;

use qbench_sdk::{DType, widen};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::{DYNAMIC_MAP, dynamic_map, mean::mean, quantize, quantize_block};

fn with_golden(test: impl FnOnce(&SafeTensors<'_>)) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/bitsandbytes/nested.safetensors"
    );
    test(&SafeTensors::deserialize(&std::fs::read(path).unwrap()).unwrap());
}

fn floats(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = golden.tensor(name).unwrap();
    let dtype = match tensor.dtype() {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::BF16 => DType::BF16,
        other => panic!("{name}: {other:?}"),
    };
    let mut values = vec![0.0; tensor.data().len() / dtype.size()];
    widen(tensor.data(), dtype, &mut values).unwrap();
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

#[test]
fn the_map_and_the_codes_of_its_steps_are_those_of_bitsandbytes() {
    let bytes: Vec<u8> = DYNAMIC_MAP.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(
        sha256(&bytes),
        "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c"
    );
    assert_eq!(
        sha256(dynamic_map::codes()),
        "dddf35d1312b15e686db8c06b6fd84f12bc2b68d7e0a3d87e70fd3af0d5561c3"
    );
}

#[test]
fn scales_offset_and_codes_are_those_of_one_thread() {
    with_golden(|golden| {
        for count in [1, 2, 7, 8, 255, 256, 257, 1000, 2560, 33000] {
            let absmax = floats(golden, &format!("n{count}.absmax"));
            assert_eq!(absmax.len(), count);
            let mut codes = vec![0; count];
            let nested = quantize(&absmax, &mut codes);
            let offset = floats(golden, &format!("n{count}.offset_1thread"))[0];
            assert_eq!(nested.offset.to_bits(), offset.to_bits(), "{count}");
            assert_eq!(
                bits(&nested.scales),
                bits(&floats(golden, &format!("n{count}.state2_absmax"))),
                "{count}"
            );
            assert_eq!(
                codes,
                golden.tensor(&format!("n{count}.q")).unwrap().data(),
                "{count}"
            );
        }
    });
}

/// Values around the middles of neighbouring codes and around the steps of the table of codes.
#[test]
fn codes_at_every_edge_are_those_of_bitsandbytes() {
    with_golden(|golden| {
        for case in ["raw", "zeroblock"] {
            let values = floats(golden, &format!("{case}.x"));
            let mut codes = vec![0; values.len()];
            let scales: Vec<f32> = values
                .chunks(super::BLOCK)
                .zip(codes.chunks_mut(super::BLOCK))
                .map(|(values, codes)| quantize_block(values, codes))
                .collect();
            assert_eq!(
                codes,
                golden.tensor(&format!("{case}.q")).unwrap().data(),
                "{case}"
            );
            if case == "zeroblock" {
                assert_eq!(bits(&scales), bits(&floats(golden, "zeroblock.absmax")));
            }
        }
    });
}

/// Where more threads change torch's mean, one thread's is ours.
#[test]
fn the_mean_is_not_that_of_two_threads() {
    with_golden(|golden| {
        let two = floats(golden, "n33000.offset_2threads")[0];
        assert_ne!(mean(&floats(golden, "n33000.absmax")), two);
    });
}
