//! `layer_metrics.csv`.

use serde::Serialize;

use super::{CellColumns, Whole, of_kind};
use crate::results::quality::number;
use crate::results::{CellKind, Evaluation, Record};

/// A hidden state of a mode; the fields are defined in [`HiddenStateQuality`](crate::results::HiddenStateQuality).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct LayerRow {
    pub quantization_mode: String,
    pub layer: Option<u64>,
    pub cosine_similarity: Option<f64>,
    pub cosine_min: Option<f64>,
    pub snr_db: Option<f64>,
    pub mse: Option<f64>,
    pub kurtosis: Option<f64>,
    pub reference_kurtosis: Option<f64>,
    pub max_inf_norm: Option<f64>,
    pub reference_max_inf_norm: Option<f64>,
    pub non_finite: Option<u64>,
    pub sequences: Option<u64>,
    pub tokens: Option<u64>,
}

pub(super) fn layer_rows(records: &[Record]) -> Vec<Whole<LayerRow>> {
    let mut rows = Vec::new();
    for record in of_kind(records, CellKind::Layers) {
        let quantization_mode = record.cell.mode.clone();
        let Some(Evaluation::Layers(layers)) = &record.evaluation else {
            let row = LayerRow {
                quantization_mode,
                ..LayerRow::default()
            };
            rows.push((row, CellColumns::new(record)));
            continue;
        };
        rows.extend(layers.hidden_states.iter().map(|state| {
            let row = LayerRow {
                quantization_mode: quantization_mode.clone(),
                layer: Some(state.index as u64),
                cosine_similarity: state.cosine_mean,
                cosine_min: state.cosine_min,
                snr_db: number(Some(state.snr_db)),
                mse: number(Some(state.mse)),
                kurtosis: number(Some(state.kurtosis)),
                reference_kurtosis: number(Some(state.reference_kurtosis)),
                max_inf_norm: number(Some(state.max_inf_norm)),
                reference_max_inf_norm: number(Some(state.reference_max_inf_norm)),
                non_finite: Some(state.non_finite),
                sequences: Some(layers.sequences),
                tokens: Some(layers.tokens),
            };
            (row, CellColumns::new(record))
        }));
    }
    rows
}
