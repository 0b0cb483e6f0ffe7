//! Timed batches.

use std::time::Instant;

use qbench_sdk::{
    Model, Result,
    backend::{Cache, ForwardOutput, LayerOutput, TokenBatch},
};

use super::energy::EnergyMeter;
use crate::workload::Batch;

/// What a timed pass over the batches gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// Seconds of each batch, in order.
    pub batch_seconds: Vec<f64>,
    /// Joules that the meter counted from the first batch's start to the last one's end.
    pub joules: Option<f64>,
    /// Pooled values that the batches wrote, those that warmed up among them.
    pub outputs: u64,
    /// Those of them that are NaN or infinite.
    pub non_finite_outputs: u64,
}

/// Runs `warmup` batches untimed, then every batch once, timed.
///
/// The work of a batch is what an embedding job does: a forward pass whose last and second-last hidden states are
/// averaged over the tokens of each sequence, copied to the host. Time is this process' wall clock around the pass and
/// the device's completion; nothing else (tokenising, allocating outputs) lies inside.
///
/// # Errors
/// The model's.
pub fn time_batches(
    model: &mut dyn Model,
    layers: usize,
    hidden: usize,
    batches: &[Batch],
    warmup: usize,
    meter: Option<&EnergyMeter>,
) -> Result<Timing> {
    let largest = batches.iter().map(|batch| batch.batch).max().unwrap_or_default();
    let (mut last, mut second_last) = (vec![0.0; largest * hidden], vec![0.0; largest * hidden]);
    let (mut outputs, mut non_finite_outputs) = (0, 0);
    let mut pass = |model: &mut dyn Model, batch: &Batch| {
        let size = batch.batch * hidden;
        let mut output = ForwardOutput {
            pooled: vec![
                LayerOutput {
                    layer: layers,
                    data: &mut last[..size],
                },
                LayerOutput {
                    layer: layers.saturating_sub(1),
                    data: &mut second_last[..size],
                },
            ],
            ..ForwardOutput::default()
        };
        let tokens = TokenBatch {
            ids: &batch.ids,
            mask: &batch.mask,
            batch: batch.batch,
            length: batch.length,
            cache: Cache::None,
        };
        let start = Instant::now();
        model.forward(tokens, &mut output)?;
        model.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        for value in last[..size].iter().chain(&second_last[..size]) {
            outputs += 1;
            non_finite_outputs += u64::from(!value.is_finite());
        }
        Ok(seconds)
    };
    for batch in batches.iter().cycle().take(warmup) {
        pass(model, batch)?;
    }
    model.reset_peak_memory()?;
    let before = meter.and_then(EnergyMeter::read);
    let batch_seconds = batches
        .iter()
        .map(|batch| pass(model, batch))
        .collect::<Result<Vec<_>>>()?;
    let after = meter.and_then(EnergyMeter::read);
    let joules = match (meter, before, after) {
        (Some(meter), Some(before), Some(after)) => Some(meter.joules_between(&before, &after)),
        _ => None,
    };
    Ok(Timing {
        batch_seconds,
        joules,
        outputs,
        non_finite_outputs,
    })
}
