//! Quality cells: the reference's outputs, and a mode's outputs compared with them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use qbench_core::{
    data::Dataset,
    invariants::finite_quality,
    quality::{
        LayerAccumulator, REFERENCE_LAYERS, Reference, ReferenceWriter, SequenceInfo, SequencePair,
        TokenAccumulator, TokenComparison, gc_share,
    },
    results::Quality,
    workload::TokenisedSequence,
};
use qbench_sdk::backend::{Cache, ForwardOutput, LayerOutput, LogitRows, TokenBatch};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

use super::{
    CellJob, CellOutcome,
    load::{Loaded, load, open_checkpoint},
    workload::{prepare, prepare_with_data},
};

/// One unpadded sequence a call: LLM.int8's outlier columns depend on what shares a call.
const QUALITY_BATCH_SIZE: usize = 1;

/// Positions that a thread compares at a time: some milliseconds of work.
const POSITIONS_A_TASK: usize = 64;

/// Runs the reference over all sequences and writes its outputs into `directory`.
pub(super) fn make_reference(job: &CellJob, directory: &Path) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let sequences = prepare(job, &checkpoint)?.workload.sequences;
    let mut loaded = load(job, &checkpoint)?;
    let (vocabulary, hidden) = (loaded.info.vocab_size, loaded.info.hidden_size);
    check_space(directory, &sequences, vocabulary)?;
    let mut writer = ReferenceWriter::create(directory, vocabulary, hidden)?;
    for sequence in &sequences {
        let outputs = outputs(&mut loaded, sequence)?;
        writer.push(&outputs.logits, [&outputs.pooled[0], &outputs.pooled[1]])?;
    }
    writer.finish()?;
    Ok(CellOutcome {
        execution: loaded.execution,
        ..CellOutcome::default()
    })
}

/// Runs a mode over all sequences and compares its outputs with those in `directory`.
pub(super) fn compare(job: &CellJob, directory: &Path) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let (prepared, data) = prepare_with_data(job, &checkpoint)?;
    let data = data.context("quality needs sequences of bases")?;
    let sequences = prepared.workload.sequences;
    let mut loaded = load(job, &checkpoint)?;
    let (vocabulary, hidden) = (loaded.info.vocab_size, loaded.info.hidden_size);
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.ids.len()).collect();
    let reference = Reference::open(directory, vocabulary, hidden, &lengths)?;

    let pool = ThreadPoolBuilder::new().num_threads(job.threads).build()?;
    let mut tokens = TokenAccumulator::new(directory);
    let mut layers = REFERENCE_LAYERS.map(LayerAccumulator::new);
    for (index, sequence) in sequences.iter().enumerate() {
        let outputs = outputs(&mut loaded, sequence)?;
        let pair = SequencePair::new(
            reference.logits(index),
            &outputs.logits,
            &sequence.ids,
            vocabulary,
        )?;
        tokens.add(describe(sequence, &data), &compare_in_parallel(pair, &pool), None)?;
        for (layer, accumulator) in layers.iter_mut().enumerate() {
            accumulator.add(reference.pooled(index, layer), &outputs.pooled[layer])?;
        }
    }

    let tokens = tokens.finish(job.seed)?;
    let mut outcome = CellOutcome {
        execution: loaded.execution,
        warnings: tokens.warnings,
        ..CellOutcome::default()
    };
    let mut quality = Quality {
        sequences: sequences.len() as u64,
        tokens: lengths.iter().sum::<usize>() as u64,
        batch_size: QUALITY_BATCH_SIZE,
        tokens_level: Some(tokens.quality),
        ..Quality::default()
    };
    for report in layers.map(LayerAccumulator::finish) {
        quality.layers.push(report.quality);
        quality.distributions.extend(report.distributions);
        outcome.warnings.extend(report.warnings);
    }
    outcome.violations.extend(finite_quality(&quality));
    outcome.quality = Some(quality);
    Ok(outcome)
}

fn describe<'a>(sequence: &TokenisedSequence, data: &'a Dataset) -> SequenceInfo<'a> {
    let source = &data.sequences[sequence.index];
    let bases = source.bases.get(..sequence.bases).unwrap_or(&source.bases);
    SequenceInfo {
        index: sequence.index,
        genome: &source.genome_id,
        gc: gc_share(bases),
        bases: sequence.bases,
    }
}

/// All positions of a sequence, compared by the threads of `pool`: the same numbers for any number of them.
fn compare_in_parallel(pair: SequencePair<'_>, pool: &ThreadPool) -> Vec<TokenComparison> {
    let starts = (0..pair.positions()).into_par_iter().step_by(POSITIONS_A_TASK);
    let compared = pool.install(|| {
        starts
            .map(|start| pair.compare(start..pair.positions().min(start + POSITIONS_A_TASK)))
            .collect::<Vec<_>>()
    });
    compared.concat()
}

struct Outputs {
    logits: Vec<f32>,
    /// One pooled vector a layer of [`REFERENCE_LAYERS`].
    pooled: [Vec<f32>; 2],
}

fn outputs(loaded: &mut Loaded, sequence: &TokenisedSequence) -> Result<Outputs> {
    let (vocabulary, hidden, layers) = (
        loaded.info.vocab_size,
        loaded.info.hidden_size,
        loaded.info.layers,
    );
    let length = sequence.ids.len();
    let mut outputs = Outputs {
        logits: vec![0.0; length * vocabulary],
        pooled: [vec![0.0; hidden], vec![0.0; hidden]],
    };
    let [last, second_last] = &mut outputs.pooled;
    let mut wanted = ForwardOutput {
        hidden: Vec::new(),
        pooled: vec![
            LayerOutput {
                layer: layers,
                data: last,
            },
            LayerOutput {
                layer: layers.saturating_sub(1),
                data: second_last,
            },
        ],
        logits: Some((LogitRows::All, &mut outputs.logits)),
    };
    let mask = vec![1; length];
    let batch = TokenBatch {
        ids: &sequence.ids,
        mask: &mask,
        batch: QUALITY_BATCH_SIZE,
        length,
        cache: Cache::None,
    };
    loaded.model.forward(batch, &mut wanted)?;
    loaded.model.synchronize()?;
    Ok(outputs)
}

/// The logits of all tokens are large: refuses to start on a disk that cannot hold them.
fn check_space(directory: &Path, sequences: &[TokenisedSequence], vocabulary: usize) -> Result<()> {
    let tokens: usize = sequences.iter().map(|sequence| sequence.ids.len()).sum();
    let needed = (tokens * vocabulary * size_of::<f32>()) as u64;
    let disk = rustix::fs::statvfs(directory)?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        needed < free,
        "the reference's logits need {:.1} GB in {}, where {:.1} GB are free: take fewer sequences with \
         --samples-per-cond, or another --outdir",
        needed as f64 / 1e9,
        directory.display(),
        free as f64 / 1e9
    );
    Ok(())
}
