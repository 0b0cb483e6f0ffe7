//! The performance cell: time, memory, energy.

use std::{num::NonZeroUsize, time::Instant};

use anyhow::Result;
use qbench_core::{
    invariants::finite_outputs,
    measure::{
        clock::WallClock,
        energy::TimedRegion,
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
    probe,
    resources::{self, Accounts},
    workload::{Prepared, prepare},
};
use crate::energy::{self, Recorder};

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
    let (weights, mut violations) = resources::weights(job, &loaded);
    let accounts = Accounts::open(&loaded)?;
    let mut recorder = energy::open(&loaded.device).map(Recorder::start);
    let mut nobody = ();
    let region: &mut dyn TimedRegion = match &mut recorder {
        Ok(recorder) => recorder,
        Err(_) => &mut nobody,
    };
    let timing = time_batches(
        loaded.model.as_mut(),
        loaded.info.layers,
        loaded.info.hidden_size,
        &batches,
        sampling,
        job.seed,
        &WallClock::start(),
        region,
    )?;
    let energy = recorder.and_then(Recorder::finish).map(|(energy, _)| energy);
    let memory = accounts.close(&loaded, &weights)?;
    let host_bytes = memory.host_mapped_bytes + memory.host_owned_bytes;
    let shape = (loaded.info.layers, loaded.info.hidden_size);
    let witness = loaded.witness.as_ref().ok();
    let probe = probe::run(loaded.model.as_mut(), shape, &batches[0], witness)?;
    violations.extend(finite_outputs(timing.non_finite_outputs, timing.outputs));
    violations.extend(resources::violations(job, &loaded, &memory, &probe));

    let performance = Performance {
        tokenize_seconds,
        load_seconds: loaded.load_seconds,
        quantize_seconds: loaded.quantize_seconds,
        quantize_source_bytes: loaded.quantize_source_bytes,
        static_bytes: Some(host_bytes + memory.backend.loaded),
        peak_bytes: Some(host_bytes + memory.backend.peak),
        memory_measured_by: format!("host buffers + {}", loaded.model.memory()?.measured_by),
        memory: Some(memory),
        probe: Some(probe),
        energy_joules: energy.as_ref().ok().and_then(|energy| energy.gross_joules),
        energy_reason: match &energy {
            Ok(energy) => energy.notes.join("; "),
            Err(reason) => reason.clone(),
        },
        energy: energy.ok(),
        commit: job.commit.clone(),
        threads: job.threads,
        ..describe(&prepared, &batches, timing.timed.passes, &loaded, job)
    }
    .with_times(timing.warm_up, timing.timed, job.seed);
    Ok(CellOutcome {
        execution: loaded.execution,
        violations,
        weights,
        performance: Some(performance),
        ..CellOutcome::default()
    })
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
