//! Passes over one short batch after the timed ones: does each leave memory behind, was the device idle, does its clock
//! agree with the host's?

use std::time::Instant;

use anyhow::Result;
use qbench_core::{results::Probe, workload::Batch};
use qbench_sdk::{
    Model,
    backend::{Cache, ForwardOutput, LayerOutput, TokenBatch},
};

use super::witness::Witness;

/// The first settles what the short batch's shape asks for; each of the others is compared with the one before.
const PASSES: u64 = 9;
/// Tokens of the batch.
const TOKENS: usize = 64;

/// Runs the probe: the first tokens of `batch`'s first sequence, again and again.
pub(super) fn run(
    model: &mut dyn Model,
    (layers, hidden): (usize, usize),
    batch: &Batch,
    witness: Option<&Witness>,
) -> Result<Probe> {
    let row = &batch.mask[..batch.length];
    let tokens: Vec<u32> = batch.ids[..batch.length]
        .iter()
        .zip(row)
        .filter(|(_, mask)| **mask == 1)
        .map(|(&id, _)| id)
        .take(TOKENS)
        .collect();
    let mask = vec![1; tokens.len()];
    let mut pooled = vec![0.0; hidden];
    let mut probe = Probe {
        passes: PASSES,
        pass_seconds: f64::INFINITY,
        second_synchronize_seconds: f64::INFINITY,
        ..Probe::default()
    };
    let counted = |model: &dyn Model| -> Result<(u64, Option<u64>)> {
        Ok((
            model.memory()?.allocated,
            witness.and_then(|witness| witness.grown().ok()),
        ))
    };
    let mut before = None;
    for _ in 0..PASSES {
        let mut output = ForwardOutput {
            pooled: vec![LayerOutput {
                layer: layers,
                data: &mut pooled,
            }],
            ..ForwardOutput::default()
        };
        let batch = TokenBatch {
            ids: &tokens,
            mask: &mask,
            batch: 1,
            length: tokens.len(),
            cache: Cache::None,
        };
        let start = Instant::now();
        model.forward(batch, &mut output)?;
        model.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        model.synchronize()?;
        let second = start.elapsed().as_secs_f64();
        probe.pass_seconds = probe.pass_seconds.min(seconds);
        probe.second_synchronize_seconds = probe.second_synchronize_seconds.min(second);
        if let Some(device) = model.device_seconds()? {
            // The least of all passes: a single one may have been interrupted between its two clocks.
            let share = device / seconds;
            probe.device_share = Some(probe.device_share.map_or(share, |least| least.min(share)));
        }
        let (backend, system) = counted(model)?;
        if let Some((backend_before, system_before)) = before.replace((backend, system)) {
            let growth = |after: u64, before: u64| after as i64 - before as i64;
            probe.backend_growth_bytes.push(growth(backend, backend_before));
            let system = system.zip(system_before);
            probe
                .system_growth_bytes
                .extend(system.map(|(after, before)| growth(after, before)));
        }
    }
    Ok(probe)
}
