//! Quality cells: the reference's outputs, and a mode's outputs compared with them.

use std::{collections::BTreeMap, ops::Range, path::Path};

use anyhow::{Context, Result, ensure};
use qbench_core::{
    data::Dataset,
    invariants::{
        Repeatability, Violation, cosines_at_most_one, divergences_not_negative, finite_quality,
        float32_backends_agree, perplexity_is_plausible, repeats_itself,
    },
    quality::{
        LayerAccumulator, REFERENCE_LAYERS, Reference, ReferenceWriter, SequenceInfo, SequencePair,
        SlidingNll, TokenAccumulator, TokenComparison, WindowNll, gc_share, window_nll, windows,
    },
    results::Quality,
    workload::{Batch, TokenisedSequence, batches},
};
use qbench_sdk::{
    DType,
    backend::{Cache, ForwardOutput, LayerOutput, LogitRows, TokenBatch, WeightInfo},
};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

use super::{
    CellJob, CellOutcome, QualityTask, SlidingWindows,
    load::{Loaded, load, open_checkpoint},
    resources,
    workload::{Prepared, prepare, prepare_whole, prepare_with_data},
};
use crate::run::REFERENCE_MODE;

/// Positions that a thread compares at a time: some milliseconds of work.
const POSITIONS_A_TASK: usize = 64;

/// Kind of the layout that stores weights as they are.
const DENSE_LAYOUT: &str = "qbench.dense/1";

/// Runs the reference over all sequences and writes its outputs into the task's directory.
pub(super) fn make_reference(job: &CellJob, task: &QualityTask) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let Prepared {
        workload, padding, ..
    } = prepare(job, &checkpoint)?;
    let sequences = workload.sequences;
    let mut loaded = load(job, &checkpoint)?;
    let (vocabulary, hidden) = (loaded.info.vocab_size, loaded.info.hidden_size);
    check_space(&task.directory, &sequences, vocabulary)?;
    let mut writer = ReferenceWriter::create(&task.directory, task.label.clone(), vocabulary, hidden)?;
    for batch in batches(&sequences, task.batch_size, None, padding) {
        let outputs = Outputs::of(&mut loaded, &batch)?;
        for (row, sequence) in sequences_of(&sequences, &batch) {
            writer.push(
                outputs.logits(row, sequence.ids.len()),
                [outputs.pooled(row, 0), outputs.pooled(row, 1)],
            )?;
        }
    }
    if let Some(windows) = task.windows {
        let pool = ThreadPoolBuilder::new().num_threads(job.threads).build()?;
        for sequence in prepare_whole(job, &checkpoint)? {
            writer.push_sliding(sliding_nll(&mut loaded, &sequence, windows, &pool)?);
        }
    }
    writer.finish()?;
    Ok(CellOutcome {
        execution: loaded.execution,
        ..CellOutcome::default()
    })
}

/// Runs a mode over all sequences and compares its outputs with the reference's.
pub(super) fn compare(job: &CellJob, task: &QualityTask) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let (prepared, data) = prepare_with_data(job, &checkpoint)?;
    let data = data.context("quality needs sequences of bases")?;
    let sequences = prepared.workload.sequences;
    let mut loaded = load(job, &checkpoint)?;
    let (vocabulary, hidden) = (loaded.info.vocab_size, loaded.info.hidden_size);
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.ids.len()).collect();
    let reference = Reference::open(
        &task.directory,
        &task.label.identity,
        vocabulary,
        hidden,
        &lengths,
    )?;

    let pool = ThreadPoolBuilder::new().num_threads(job.threads).build()?;
    let mut whole = match task.windows {
        Some(windows) => Some((windows, prepare_whole(job, &checkpoint)?.into_iter())),
        None => None,
    };
    let mut tokens = TokenAccumulator::new(&task.scratch);
    let mut layers = REFERENCE_LAYERS.map(LayerAccumulator::new);
    let mut index = 0;
    for batch in batches(&sequences, task.batch_size, None, prepared.padding) {
        let outputs = Outputs::of(&mut loaded, &batch)?;
        for (row, sequence) in sequences_of(&sequences, &batch) {
            let logits = outputs.logits(row, sequence.ids.len());
            let pair = SequencePair::new(reference.logits(index), logits, &sequence.ids, vocabulary)?;
            let sliding = match &mut whole {
                Some((windows, sequences)) => {
                    let sequence = sequences
                        .next()
                        .context("as many sequences without a limit as with one")?;
                    let mode = sliding_nll(&mut loaded, &sequence, *windows, &pool)?;
                    reference.sliding(index).map(|reference| SlidingNll {
                        predicted: mode.predicted,
                        nll: mode.nll,
                        reference_nll: reference.nll,
                    })
                }
                None => None,
            };
            tokens.add(
                describe(sequence, &data),
                &compare_in_parallel(pair, &pool),
                sliding,
            )?;
            for (layer, accumulator) in layers.iter_mut().enumerate() {
                accumulator.add(reference.pooled(index, layer), outputs.pooled(row, layer))?;
            }
            reference.release(index);
            index += 1;
        }
    }

    let mut tokens = tokens.finish(job.seed)?;
    if let (Some(sliding), Some(windows)) = (&mut tokens.quality.sliding, task.windows) {
        (sliding.context_len, sliding.stride) = (windows.context_len, windows.stride);
    }
    let mut warnings = tokens.warnings;
    let mut quality = Quality {
        sequences: sequences.len() as u64,
        tokens: lengths.iter().sum::<usize>() as u64,
        batch_size: task.batch_size.get(),
        reference: task.reference.clone(),
        tokens_level: Some(tokens.quality),
        ..Quality::default()
    };
    for report in layers.map(LayerAccumulator::finish) {
        quality.layers.push(report.quality);
        quality.distributions.extend(report.distributions);
        warnings.extend(report.warnings);
    }
    let (weights, mut violations) = resources::weights(job, &loaded);
    let (found, doubts) = judge(&quality, job, task, &loaded, &reference);
    violations.extend(found);
    warnings.extend(doubts);
    Ok(CellOutcome {
        execution: loaded.execution,
        warnings,
        violations,
        weights,
        quality: Some(quality),
        ..CellOutcome::default()
    })
}

/// What does not hold of the numbers, and what leaves a doubt.
fn judge(
    quality: &Quality,
    job: &CellJob,
    task: &QualityTask,
    loaded: &Loaded,
    reference: &Reference,
) -> (Vec<Violation>, Vec<String>) {
    let mut violations: Vec<Violation> = finite_quality(quality).into_iter().collect();
    let mut doubts = Vec::new();
    violations.extend(cosines_at_most_one(&quality.layers));
    let Some(tokens) = &quality.tokens_level else {
        return (violations, doubts);
    };
    violations.extend(divergences_not_negative(tokens));
    violations.extend(perplexity_is_plausible(tokens, loaded.info.vocab_size));

    let origin = |label: &BTreeMap<String, String>, name: &str| label.get(name).cloned().unwrap_or_default();
    let differences: Vec<String> = task
        .label
        .origin
        .keys()
        .filter(|name| origin(reference.origin(), name) != origin(&task.label.origin, name))
        .map(|name| format!("{name} `{}`", origin(reference.origin(), name)))
        .collect();
    if !differences.is_empty() {
        doubts.push(format!(
            "the reference was made elsewhere: {}",
            differences.join(", ")
        ));
    }
    let stores_as_is = |weight: &WeightInfo| weight.layout == DENSE_LAYOUT;
    let is_reference =
        job.scheme.id == REFERENCE_MODE && job.compute == task.reference_precision && !task.bf16_noise;
    if is_reference && differences.is_empty() {
        let claim = Repeatability {
            deterministic: loaded.info.deterministic,
            bound: loaded.info.repeat_kl_bound,
        };
        violations.extend(repeats_itself(tokens, claim));
        if !claim.deterministic && claim.bound.is_none() {
            doubts.push(
                "the backend says neither that it is deterministic nor how far it may be off (repeat_kl_bound): not \
                 checked"
                    .to_owned(),
            );
        }
    } else if is_reference && job.compute == DType::F32 {
        violations.extend(float32_backends_agree(tokens));
    } else if tokens.kl.max == 0.0 && !loaded.info.weights.iter().all(stores_as_is) {
        doubts.push(
            "the outputs equal the reference's bit for bit though weights are quantised: the mode is lossless for this \
             model, or the backend does not use what it stores"
                .to_owned(),
        );
    }
    (violations, doubts)
}

/// The sequences of a batch with their rows in it.
fn sequences_of<'a>(
    sequences: &'a [TokenisedSequence],
    batch: &Batch,
) -> impl Iterator<Item = (usize, &'a TokenisedSequence)> {
    let first = sequences
        .iter()
        .position(|sequence| Some(&sequence.index) == batch.sequences.first());
    sequences[first.unwrap_or(0)..]
        .iter()
        .take(batch.batch)
        .enumerate()
}

/// nll over sliding windows, one window a call.
fn sliding_nll(
    loaded: &mut Loaded,
    sequence: &TokenisedSequence,
    SlidingWindows { context_len, stride }: SlidingWindows,
    pool: &ThreadPool,
) -> Result<WindowNll> {
    let vocabulary = loaded.info.vocab_size;
    let mut sum = WindowNll::default();
    for window in windows(sequence.ids.len(), context_len, stride) {
        let ids = &sequence.ids[window.tokens.clone()];
        let mut logits = vec![0.0; ids.len() * vocabulary];
        let mut wanted = ForwardOutput {
            logits: Some((LogitRows::All, &mut logits)),
            ..ForwardOutput::default()
        };
        let mask = vec![1; ids.len()];
        let batch = TokenBatch {
            ids,
            mask: &mask,
            batch: 1,
            length: ids.len(),
            cache: Cache::None,
        };
        loaded.model.forward(batch, &mut wanted)?;
        loaded.model.synchronize()?;
        let start = window.tokens.start;
        let predicted = window.predicted.start - start..window.predicted.end - start;
        let parts: Vec<Range<usize>> = predicted
            .clone()
            .step_by(POSITIONS_A_TASK)
            .map(|part| part..predicted.end.min(part + POSITIONS_A_TASK))
            .collect();
        let nll = pool.install(|| {
            parts
                .into_par_iter()
                .map(|part| window_nll(&logits, ids, part, vocabulary))
                .collect::<Result<Vec<_>, _>>()
        })?;
        sum.predicted += predicted.len() as u64;
        sum.nll += nll.concat().iter().sum::<f64>();
    }
    Ok(sum)
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

/// What a pass over a batch gave.
struct Outputs {
    /// `[batch, length, vocabulary]`.
    logits: Vec<f32>,
    /// `[batch, hidden]`, one a layer of [`REFERENCE_LAYERS`].
    pooled: [Vec<f32>; 2],
    length: usize,
    vocabulary: usize,
    hidden: usize,
}

impl Outputs {
    fn of(loaded: &mut Loaded, batch: &Batch) -> Result<Self> {
        let (vocabulary, hidden, layers) = (
            loaded.info.vocab_size,
            loaded.info.hidden_size,
            loaded.info.layers,
        );
        let mut logits = vec![0.0; batch.batch * batch.length * vocabulary];
        let mut last = vec![0.0; batch.batch * hidden];
        let mut second_last = last.clone();
        let mut wanted = ForwardOutput {
            hidden: Vec::new(),
            pooled: vec![
                LayerOutput {
                    layer: layers,
                    data: &mut last,
                },
                LayerOutput {
                    layer: layers.saturating_sub(1),
                    data: &mut second_last,
                },
            ],
            logits: Some((LogitRows::All, &mut logits)),
        };
        let tokens = TokenBatch {
            ids: &batch.ids,
            mask: &batch.mask,
            batch: batch.batch,
            length: batch.length,
            cache: Cache::None,
        };
        loaded.model.forward(tokens, &mut wanted)?;
        loaded.model.synchronize()?;
        Ok(Self {
            logits,
            pooled: [last, second_last],
            length: batch.length,
            vocabulary,
            hidden,
        })
    }

    /// The logits of the `tokens` tokens of a sequence; padding is on the right.
    fn logits(&self, row: usize, tokens: usize) -> &[f32] {
        &self.logits[row * self.length * self.vocabulary..][..tokens * self.vocabulary]
    }

    fn pooled(&self, row: usize, layer: usize) -> &[f32] {
        &self.pooled[layer][row * self.hidden..][..self.hidden]
    }
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
