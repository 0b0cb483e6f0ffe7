//! One unpadded sequence through a loaded model.

use anyhow::Result;
use qbench_sdk::backend::{Cache, ForwardOutput, LayerOutput, LogitRows, TokenBatch};

use super::load::Loaded;

/// Logits of all positions, `[tokens, vocabulary]`, and the mean of the last hidden states, `[hidden]`.
pub(super) fn logits_and_embedding(loaded: &mut Loaded, ids: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut logits = vec![0.0; ids.len() * loaded.info.vocab_size];
    let mut pooled = vec![0.0; loaded.info.hidden_size];
    let wanted = ForwardOutput {
        hidden: Vec::new(),
        pooled: vec![LayerOutput {
            layer: loaded.info.layers,
            data: &mut pooled,
        }],
        logits: Some((LogitRows::All, &mut logits)),
    };
    forward(loaded, ids, wanted)?;
    Ok((logits, pooled))
}

/// The mean of the last hidden states, `[hidden]`.
pub(super) fn embedding(loaded: &mut Loaded, ids: &[u32]) -> Result<Vec<f32>> {
    let mut pooled = vec![0.0; loaded.info.hidden_size];
    let wanted = ForwardOutput {
        hidden: Vec::new(),
        pooled: vec![LayerOutput {
            layer: loaded.info.layers,
            data: &mut pooled,
        }],
        logits: None,
    };
    forward(loaded, ids, wanted)?;
    Ok(pooled)
}

/// Some hidden states, each `[tokens, hidden]`.
pub(super) fn hidden_states(
    loaded: &mut Loaded,
    ids: &[u32],
    states: std::ops::Range<usize>,
) -> Result<Vec<Vec<f32>>> {
    let mut values = vec![vec![0.0; ids.len() * loaded.info.hidden_size]; states.len()];
    let wanted = ForwardOutput {
        hidden: states
            .zip(&mut values)
            .map(|(layer, data)| LayerOutput { layer, data })
            .collect(),
        pooled: Vec::new(),
        logits: None,
    };
    forward(loaded, ids, wanted)?;
    Ok(values)
}

fn forward(loaded: &mut Loaded, ids: &[u32], mut wanted: ForwardOutput<'_>) -> Result<()> {
    let mask = vec![1; ids.len()];
    let batch = TokenBatch {
        ids,
        mask: &mask,
        batch: 1,
        length: ids.len(),
        cache: Cache::None,
    };
    loaded.model.forward(batch, &mut wanted)?;
    Ok(loaded.model.synchronize()?)
}
