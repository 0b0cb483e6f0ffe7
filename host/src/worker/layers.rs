//! The layer cell: every hidden state of a mode against the reference's.
//!
//! The reference runs beside the mode in the same process. Stored on disk as the logits are, its hidden states would
//! take layers × hidden × 4 bytes a token (300 KiB for a model of 4 billion parameters, eighteen times its logits);
//! a second pass costs the time of one more `standard` f32 pass and no disk.

use anyhow::Result;
use qbench_core::{
    invariants, quality::HiddenStatesAccumulator, results::Evaluation, workload::TokenisedSequence,
};
use qbench_sdk::DType;

use super::{
    CellJob, CellOutcome,
    forward::hidden_states,
    load::{load, open_checkpoint},
    workload::prepare,
};
use crate::plugins::SchemeChoice;

/// Bytes of hidden states that are held at a time; a long sequence through a large model takes several passes.
const HELD_BYTES: usize = 1 << 30;

pub(super) fn run(job: &CellJob, reference: &SchemeChoice, samples: usize) -> Result<CellOutcome> {
    let checkpoint = open_checkpoint(job)?;
    let sequences = spread(prepare(job, &checkpoint)?.workload.sequences, samples);
    let reference_job = CellJob {
        scheme: reference.clone(),
        compute: DType::F32,
        ..job.clone()
    };
    let mut mode = load(job, &checkpoint)?;
    let mut reference = load(&reference_job, &checkpoint)?;
    let (states, hidden) = (mode.info.layers + 1, mode.info.hidden_size);
    let mut accumulator = HiddenStatesAccumulator::new(states, hidden);
    for sequence in &sequences {
        let ids = &sequence.ids;
        accumulator.begin_sequence(ids.len());
        let state_bytes = 2 * ids.len() * hidden * size_of::<f32>();
        let at_once = (HELD_BYTES / state_bytes.max(1)).max(1);
        for first in (0..states).step_by(at_once) {
            let range = first..(first + at_once).min(states);
            let expected = hidden_states(&mut reference, ids, range.clone())?;
            let found = hidden_states(&mut mode, ids, range)?;
            accumulator.add(first, &expected, &found, job.threads)?;
        }
    }
    let evaluation = Evaluation::Layers(accumulator.finish());
    Ok(CellOutcome {
        execution: mode.execution,
        violations: invariants::evaluation(&evaluation),
        evaluation: Some(evaluation),
        ..CellOutcome::default()
    })
}

/// At most `count` of the sequences, spread evenly over all.
fn spread(sequences: Vec<TokenisedSequence>, count: usize) -> Vec<TokenisedSequence> {
    let all = sequences.len();
    let count = count.min(all);
    let chosen: Vec<usize> = (0..count).map(|place| place * all / count).collect();
    sequences
        .into_iter()
        .enumerate()
        .filter(|(index, _)| chosen.contains(index))
        .map(|(_, sequence)| sequence)
        .collect()
}
