//! Quality by mode and layer: what the figures and the report show.

use super::modes::ordered_modes;
use crate::results::{LOGITS_LAYER, QualityRow};
use crate::statistics::Summary;

/// The quality rows that have numbers, of one analysis.
#[derive(Debug)]
pub struct QualityRows<'a> {
    rows: Vec<&'a QualityRow>,
}

impl<'a> QualityRows<'a> {
    /// Takes the rows of cells that ended well.
    pub fn new(rows: &'a [QualityRow]) -> Self {
        Self {
            rows: rows.iter().filter(|row| row.is_ok()).collect(),
        }
    }

    /// The modes in the order of tables and figures.
    pub fn modes(&self) -> Vec<&'a str> {
        ordered_modes(self.rows.iter().map(|row| row.quantization_mode.as_str()))
    }

    /// The layers of pooled embeddings that have any number: `last`, `second_last`, then others alphabetically.
    pub fn pooled_layers(&self) -> Vec<&'a str> {
        let mut layers: Vec<&str> = self
            .rows
            .iter()
            .filter(|row| {
                row.layer != LOGITS_LAYER && (row.cosine_similarity.is_some() || row.kl_divergence.is_some())
            })
            .map(|row| row.layer.as_str())
            .collect();
        layers.sort_by_key(|&layer| (layer != "last", layer != "second_last", layer));
        layers.dedup();
        layers
    }

    /// The summary of one column over the rows of a mode and layer; `None` when nothing was measured.
    pub fn summary(
        &self,
        mode: &str,
        layer: &str,
        column: impl Fn(&QualityRow) -> Option<f64>,
    ) -> Option<Summary> {
        let rows = self
            .rows
            .iter()
            .filter(|row| row.quantization_mode == mode && row.layer == layer);
        let values: Vec<f64> = rows.filter_map(|row| column(row)).collect();
        Summary::of(&values)
    }
}
