//! The performance cell: time, memory, energy.

use std::{num::NonZeroUsize, time::Instant};

use anyhow::Result;
use qbench_core::{
    invariants::finite_outputs,
    measure::{
        clock::WallClock,
        energy::EnergyMeter,
        flops::{
            AttentionPairs, DecoderShape, OutputHead, flops_per_sequence_exact, flops_per_sequence_original,
        },
        sampling::SamplingSettings,
        speed::time_batches,
    },
    results::{BatchShape, Performance},
    workload::{Batch, batches},
};

use super::{
    CellJob, CellOutcome,
    load::{Loaded, load, open_checkpoint},
    workload::{Prepared, prepare},
};

pub(super) fn run(
    job: &CellJob,
    batch_size: NonZeroUsize,
    sampling: &SamplingSettings,
    max_batches: Option<usize>,
) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let start = Instant::now();
    let prepared = prepare(job, &checkpoint)?;
    let tokenize_seconds = start.elapsed().as_secs_f64();
    let batches = batches(
        &prepared.workload.sequences,
        batch_size,
        max_batches,
        prepared.padding,
    );

    let mut loaded = load(job, &checkpoint)?;
    let before = loaded.model.memory()?;
    let host = loaded.weights.memory();
    let host_bytes = host.mapped_bytes + host.owned_bytes;
    let static_bytes = host_bytes + before.allocated;
    let meter = meter(job);
    let timing = time_batches(
        loaded.model.as_mut(),
        loaded.info.layers,
        loaded.info.hidden_size,
        &batches,
        sampling,
        job.seed,
        &WallClock::start(),
        meter.as_ref().ok(),
    )?;
    let memory = loaded.model.memory()?;

    let performance = Performance {
        tokenize_seconds,
        load_seconds: loaded.load_seconds,
        quantize_seconds: loaded.quantize_seconds,
        quantize_source_bytes: loaded.quantize_source_bytes,
        static_bytes: Some(static_bytes),
        peak_bytes: Some(host_bytes + memory.peak_allocated),
        memory_measured_by: format!("host buffers + {}", memory.measured_by),
        energy_joules: timing.joules,
        energy_reason: meter.err().unwrap_or_default(),
        commit: job.commit.clone(),
        threads: job.threads,
        ..describe(&prepared, &batches, timing.timed.passes, &loaded, job)
    }
    .with_times(timing.warm_up, timing.timed, job.seed);
    let violations = finite_outputs(timing.non_finite_outputs, timing.outputs)
        .into_iter()
        .collect();
    Ok(CellOutcome {
        execution: loaded.execution,
        violations,
        performance: Some(performance),
        ..CellOutcome::default()
    })
}

/// The processor's energy counters; a device has its own meter.
fn meter(job: &CellJob) -> Result<EnergyMeter, String> {
    if job.device.starts_with("cpu") {
        EnergyMeter::open()
    } else {
        Err(format!("no energy meter for device {}", job.device))
    }
}

/// Everything that follows from the sequences, run `passes` times, and the model's shape.
fn describe(
    prepared: &Prepared,
    batches: &[Batch],
    passes: usize,
    loaded: &Loaded,
    job: &CellJob,
) -> Performance {
    let info = &loaded.info;
    let passes = passes as u64;
    let sum = |count: fn(&Batch) -> u64| passes * batches.iter().map(count).sum::<u64>();
    let sequences: usize = batches.iter().map(|batch| batch.batch).sum();
    // Batches take the sequences in order.
    let lengths: Vec<usize> = prepared.workload.sequences[..sequences]
        .iter()
        .map(|sequence| sequence.ids.len())
        .collect();
    let mean = |flops: &dyn Fn(usize) -> f64| {
        lengths.iter().map(|&tokens| flops(tokens)).sum::<f64>() / lengths.len() as f64
    };
    let original = |tokens| {
        flops_per_sequence_original(
            info.layers,
            info.hidden_size,
            Some(info.intermediate_size),
            tokens,
        )
    };
    let shape = DecoderShape {
        layers: info.layers,
        hidden: info.hidden_size,
        intermediate: info.intermediate_size,
        heads: info.heads,
        kv_heads: info.kv_heads,
        head_dim: info.head_dim,
        vocabulary: info.vocab_size,
    };
    // The timed pass ends in pooled hidden states and computes no logits.
    let exact = |tokens| flops_per_sequence_exact(&shape, tokens, AttentionPairs::Causal, OutputHead::None);
    Performance {
        batches: batches.iter().map(shape_of).collect(),
        sequences: passes * sequences as u64,
        tokens: sum(|batch| batch.tokens),
        bases: prepared.real.then(|| sum(|batch| batch.bases)),
        mean_bp: prepared.real.then(|| prepared.workload.mean_bp()),
        mean_tokens: prepared.workload.mean_tokens(),
        truncated_sequences: prepared.workload.truncated() as u64,
        flops_per_sequence: Some(mean(&original)),
        flops_per_sequence_exact: Some(mean(&exact)),
        device_name: loaded.device.name.clone(),
        driver: loaded.device.driver.clone(),
        cuda: loaded.device.cuda.clone(),
        library: job.backend.info.library.clone(),
        ..Performance::default()
    }
}

fn shape_of(batch: &Batch) -> BatchShape {
    BatchShape {
        sequences: batch.batch,
        length: batch.length,
        tokens: batch.tokens,
    }
}
