//! The performance cell: time, memory, energy.

use std::{num::NonZeroUsize, path::Path, time::Instant};

use anyhow::Result;
use qbench_core::{
    checkpoint::Checkpoint,
    invariants::finite_outputs,
    measure::{
        clock::WallClock,
        energy::TimedRegion,
        flops::{
            AttentionPairs, DecoderShape, OutputHead, flops_per_sequence_exact, flops_per_sequence_original,
        },
        sampling::SamplingSettings,
        speed::{GenerationTiming, OutputShape, time_batches},
    },
    results::{BatchShape, Performance},
    workload::{Batch, Generation, Tokenizer, WorkloadKind, batches},
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
    workload: WorkloadKind,
    batch_size: NonZeroUsize,
    sampling: &SamplingSettings,
    max_batches: Option<usize>,
) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let start = Instant::now();
    let mut prepared = prepare(job, &checkpoint)?;
    if let WorkloadKind::Decode(generation) = workload {
        prepared.workload.cut_to_prompts(generation.prompt_tokens.get())?;
    }
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
        OutputShape {
            layers: loaded.info.layers,
            hidden: loaded.info.hidden_size,
            vocabulary: loaded.info.vocab_size,
        },
        workload,
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
    violations.extend(finite_outputs(timing.outputs.non_finite, timing.outputs.values));
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
        ..describe(&prepared, workload, &batches, timing.timed.passes, &loaded, job)
    };
    let performance = match workload {
        WorkloadKind::Decode(generation) => {
            generated(performance, generation, timing.generation, &prepared, &checkpoint)?
        }
        WorkloadKind::Embed | WorkloadKind::Score => performance,
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
    workload: WorkloadKind,
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
    // The last token that is generated goes through the model no more.
    let (further, head) = match workload {
        WorkloadKind::Embed => (0, OutputHead::None),
        WorkloadKind::Score => (0, OutputHead::EveryPosition),
        WorkloadKind::Decode(Generation { generated_tokens, .. }) => (
            generated_tokens.get() - 1,
            OutputHead::Positions(generated_tokens.get()),
        ),
    };
    let original = |tokens| {
        flops_per_sequence_original(
            info.layers,
            info.hidden_size,
            Some(info.intermediate_size),
            tokens + further,
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
    let exact = |tokens| flops_per_sequence_exact(&shape, tokens + further, AttentionPairs::Causal, head);
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

/// The same with tokens and bases those that were generated.
fn generated(
    performance: Performance,
    generation: Generation,
    timing: GenerationTiming,
    prepared: &Prepared,
    checkpoint: &Checkpoint,
) -> Result<Performance> {
    let bases = if prepared.real {
        let directory = checkpoint.config_path().parent().unwrap_or(Path::new("."));
        let tokenizer = Tokenizer::from_directory(directory)?;
        let each = timing
            .tokens
            .iter()
            .map(|(&token, times)| Ok(tokenizer.bases_of(token)? * times));
        Some(each.sum::<Result<u64>>()?)
    } else {
        None
    };
    Ok(Performance {
        first_token_seconds: timing.first_token_seconds,
        generated_tokens: Some(generation.generated_tokens.get() as u64),
        tokens: performance.sequences * generation.generated_tokens.get() as u64,
        bases,
        mean_tokens: generation.prompt_tokens.get() as f64,
        ..performance
    })
}

fn shape_of(batch: &Batch) -> BatchShape {
    BatchShape {
        sequences: batch.batch,
        length: batch.length,
        tokens: batch.tokens,
    }
}
