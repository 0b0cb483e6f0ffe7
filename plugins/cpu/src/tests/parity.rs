//! mistral-tiny against what transformers 5.23 computed for it (torch 2.11, CPU). The quantised modes are compared by
//! the workspace's end-to-end tests, which load the modes as a plugin.

use std::{fs, path::PathBuf, sync::Arc};

use qbench_sdk::{
    Backend, DType, Matrix, Model,
    backend::{Cache, ForwardOutput, LayerOutput, LoadRequest, LogitRows, TokenBatch},
};
use safetensors::{Dtype, SafeTensors};

use super::support::{MemoryTensor, MemoryWeights, all_kernels};
use crate::{CpuBackend, Kernels};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/bitsandbytes/mistral-tiny"
    ))
    .join(name)
}

fn load(compute: DType, kernels: Kernels) -> Box<dyn Model> {
    let file = fs::read(fixture("model.safetensors")).unwrap();
    let mut weights = MemoryWeights::default();
    for (name, view) in SafeTensors::deserialize(&file).unwrap().tensors() {
        assert_eq!(view.dtype(), Dtype::BF16);
        let (rows, cols) = match view.shape() {
            [cols] => (1, *cols),
            [rows, cols] => (*rows, *cols),
            shape => panic!("{name}: {shape:?}"),
        };
        let source = Matrix::new(view.data(), rows, cols, DType::BF16).unwrap();
        let mut values = vec![0.0; rows * cols];
        for (row, values) in values.chunks_exact_mut(cols).enumerate() {
            source.read_row(row, values).unwrap();
        }
        weights
            .0
            .insert(name, MemoryTensor::dense(rows, cols, DType::BF16, &values));
    }
    CpuBackend::new(kernels)
        .load(LoadRequest {
            config_json: &fs::read_to_string(fixture("config.json")).unwrap(),
            weights: Arc::new(weights),
            device: "cpu",
            compute,
            threads: 2,
        })
        .unwrap()
}

/// Expected values of a tensor, as f64.
fn expected(file: &[u8], name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(file).unwrap();
    let view = file.tensor(name).unwrap();
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect(),
        Dtype::I32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f64::from(i32::from_le_bytes(*b)))
            .collect(),
        Dtype::I16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| f64::from(i16::from_le_bytes(*b)))
            .collect(),
        Dtype::U8 => bytes.iter().map(|b| f64::from(*b)).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

/// What a variant may differ by: logits (relative to the largest), log-sum-exp and single logits, pooled states.
struct Tolerance {
    logits: f64,
    scalar: f64,
    pooled: f64,
}

fn compare(variant: &str, compute: DType, kernels: Kernels, tolerance: &Tolerance) {
    const VOCAB: usize = 4096;
    const LENGTH: usize = 128;
    const HIDDEN: usize = 256;
    let file = fs::read(fixture("expected.safetensors")).unwrap();
    let of = |name: &str| expected(&file, &format!("{variant}.{name}"));
    let ids: Vec<u32> = expected(&file, "input_ids").iter().map(|id| *id as u32).collect();
    let mask: Vec<u8> = expected(&file, "attention_mask")
        .iter()
        .map(|token| *token as u8)
        .collect();
    let mut logits = vec![0.0; ids.len() * VOCAB];
    let (mut last, mut second_last) = (vec![0.0; 4 * HIDDEN], vec![0.0; 4 * HIDDEN]);
    let mut output = ForwardOutput {
        hidden: Vec::new(),
        pooled: vec![
            LayerOutput {
                layer: 4,
                data: &mut last,
            },
            LayerOutput {
                layer: 3,
                data: &mut second_last,
            },
        ],
        logits: Some((LogitRows::All, &mut logits)),
    };
    let batch = TokenBatch {
        ids: &ids,
        mask: &mask,
        batch: 4,
        length: LENGTH,
        cache: Cache::None,
    };
    load(compute, kernels).forward(batch, &mut output).unwrap();

    let row = |b: f64, t: f64| &logits[(b as usize * LENGTH + t as usize) * VOCAB..][..VOCAB];
    let near = |value: f64, truth: f64, tolerance: f64, what: &str| {
        assert!(
            (value - truth).abs() <= tolerance,
            "{variant} {what}: {value} is not {truth}"
        );
    };
    let sample = of("logits_sample");
    let largest = sample.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
    for (position, truth) in expected(&file, "sample_positions")
        .chunks(2)
        .zip(sample.chunks(VOCAB))
    {
        for (value, truth) in row(position[0], position[1]).iter().zip(truth) {
            near(f64::from(*value), *truth, tolerance.logits * largest, "logits");
        }
    }
    let (lse, top) = (of("lse"), of("top2_logits"));
    for (i, position) in expected(&file, "valid_index").chunks(2).enumerate() {
        let row = row(position[0], position[1]);
        let sum: f64 = row.iter().map(|value| f64::from(*value).exp()).sum();
        near(sum.ln(), lse[i], tolerance.scalar, "lse");
        let mut sorted = row.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        near(f64::from(sorted[0]), top[2 * i], tolerance.scalar, "top logit");
        near(
            f64::from(sorted[1]),
            top[2 * i + 1],
            tolerance.scalar,
            "second logit",
        );
    }
    for (name, values) in [("pooled_last", last), ("pooled_second_last", second_last)] {
        for (value, truth) in values.iter().zip(of(name)) {
            near(f64::from(*value), truth, tolerance.pooled, name);
        }
    }
}

#[test]
fn f32_is_transformers() {
    // SDPA and eager attention of transformers differ by 7.6e-6 in a logit (largest 35.9); this leaves some room.
    let tolerance = Tolerance {
        logits: 2e-6,
        scalar: 5e-5,
        pooled: 1e-5,
    };
    for kernels in all_kernels() {
        compare("standard.f32", DType::F32, kernels, &tolerance);
    }
}

#[test]
fn bf16_is_transformers_up_to_its_rounding() {
    // SDPA and eager attention of transformers in bf16 differ by up to 0.25 in a logit (largest 35.8); transformers
    // also rounds logits, norms and activations where this backend keeps f32.
    let tolerance = Tolerance {
        logits: 0.3 / 35.0,
        scalar: 0.3,
        pooled: 0.03,
    };
    for kernels in all_kernels() {
        compare("standard.bf16", DType::BF16, kernels, &tolerance);
    }
}
