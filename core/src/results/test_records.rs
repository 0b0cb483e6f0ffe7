//! Records for tests, with numbers that are easy to work out by hand.

use super::*;
use crate::measure::sampling::{Convergence, WarmUpRun};
use crate::statistics::Interval;
use crate::workload::WorkloadKind;

/// Two timed batches of 2 s and 3 s: 10 sequences, 1000 tokens, 5000 bases; 20 J; 3 GB static and 4 GB peak;
/// 2e12 operations a sequence.
pub(crate) fn performance_record(mode: &str, repeat: usize) -> Record {
    Record {
        schema: RECORD_SCHEMA.to_owned(),
        cell: cell(CellKind::Performance, mode, repeat),
        status: Status::Ok,
        reason: String::new(),
        plugins: Vec::new(),
        execution: vec![LayerExecution {
            layout: "qbench.block-codebook/1".to_owned(),
            weights: 84,
            execution: "native: gemm".to_owned(),
        }],
        warnings: Vec::new(),
        violations: Vec::new(),
        weights: Vec::new(),
        performance: Some(Performance {
            batches: [(4, 120, 400), (6, 130, 600)]
                .map(|(sequences, length, tokens)| BatchShape {
                    sequences,
                    length,
                    tokens,
                })
                .to_vec(),
            batch_seconds: vec![2.0, 3.0],
            warm_up: WarmUpRun {
                batch_seconds: vec![2.5],
                settled: Some(false),
            },
            convergence: Some(Convergence::NotConverged),
            sequences: 10,
            tokens: 1000,
            bases: Some(5000),
            mean_bp: Some(500.0),
            mean_tokens: 100.0,
            truncated_sequences: 3,
            tokenize_seconds: 0.25,
            load_seconds: 1.5,
            quantize_seconds: 0.5,
            quantize_source_bytes: 2_000_000_000,
            static_bytes: Some(3_000_000_000),
            peak_bytes: Some(4_000_000_000),
            memory_measured_by: "backend".to_owned(),
            energy_joules: Some(20.0),
            flops_per_sequence: Some(2e12),
            flops_per_sequence_exact: Some(2.5e12),
            device_name: "NVIDIA H200".to_owned(),
            threads: 2,
            ..Performance::default()
        }),
        quality: None,
        evaluation: None,
    }
}

/// A quality cell with metrics for `last`, a vector equal to the reference's at `second_last`, and token metrics.
pub(crate) fn quality_record(mode: &str) -> Record {
    let layer = |layer: &str, snr_db: Option<f64>, snr_infinite| LayerQuality {
        layer: layer.to_owned(),
        kl_divergence: Some(0.125),
        cosine_similarity: Some(0.9961),
        snr_db,
        snr_infinite,
        non_finite: 2,
        ..LayerQuality::default()
    };
    Record {
        cell: cell(CellKind::Quality, mode, 0),
        performance: None,
        quality: Some(Quality {
            reason: String::new(),
            sequences: 4,
            tokens: 400,
            batch_size: 1,
            reference: "standard float32".to_owned(),
            layers: vec![layer("last", Some(21.5), 1), layer("second_last", None, 4)],
            tokens_level: Some(TokenQuality {
                kl: Distribution {
                    mean: estimate(0.03),
                    max: f64::INFINITY,
                    ..Distribution::default()
                },
                perplexity: estimate(f64::NAN),
                reference_perplexity: 8.5,
                ..TokenQuality::default()
            }),
            distributions: vec![DistributionStatistics {
                layer: "last".to_owned(),
                kind: "standard_stats".to_owned(),
                mean: 0.5,
                skewness: f64::NAN,
                ..DistributionStatistics::default()
            }],
        }),
        ..performance_record(mode, 0)
    }
}

fn estimate(value: f64) -> Estimate {
    Estimate {
        value,
        interval: Some(Interval {
            low: 0.01,
            high: 0.05,
        })
        .filter(|_| value.is_finite()),
    }
}

fn cell(kind: CellKind, mode: &str, repeat: usize) -> Cell {
    Cell {
        kind,
        model: "tiny".to_owned(),
        backend: "candle".to_owned(),
        device: "cuda:0".to_owned(),
        precision: "float32".to_owned(),
        mode: mode.to_owned(),
        condition: "full".to_owned(),
        workload: WorkloadKind::Embed,
        batch_size: 4,
        repeat,
        part: String::new(),
    }
}
