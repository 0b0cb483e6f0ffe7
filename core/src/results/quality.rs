//! The quality tables: `quality_metrics.csv`, `distribution_statistics.csv`, and those of the module `quality_parts`.
//!
//! A quality cell gives three rows of metrics: the layers `last` and `second_last` hold the metrics of the pooled
//! embeddings, `logits` those of the next-token distribution; the fields of the other kind are empty. A cell that
//! failed, or has no meaningful numbers (a synthetic model), has the same three rows with a status and a reason.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::csv_table::{read_table, write_table};
use super::quality_parts::{GROUP_FILE, SEQUENCE_FILE, group_rows, sequence_rows};
use super::token_columns::TokenColumns;
use super::{
    Cell, CellKind, DistributionStatistics, Evaluation, LayerQuality, Quality, Record, ResultsError, Status,
    TokenQuality,
};

/// Name of the table of metrics.
pub const QUALITY_FILE: &str = "quality_metrics.csv";
/// Name of the table of the pooled values' statistics.
pub const DISTRIBUTION_FILE: &str = "distribution_statistics.csv";
/// The layer name of the token-level rows.
pub const LOGITS_LAYER: &str = "logits";
/// The layers of the pooled embeddings.
const POOLED_LAYERS: [&str; 2] = ["last", "second_last"];

/// Columns that hold text; all others hold numbers.
const TEXT: [&str; 12] = [
    "quantization_mode",
    "layer",
    "type",
    "model",
    "backend",
    "device",
    "precision",
    "condition",
    "status",
    "reason",
    "reference",
    "interval_unit",
];

/// One row of `quality_metrics.csv`; also read from the original's, whose missing columns are then empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are the columns, defined in `TokenQuality` and `LayerQuality`"
)]
pub struct QualityRow {
    pub quantization_mode: String,
    pub layer: String,
    pub kl_divergence: Option<f64>,
    pub js_divergence: Option<f64>,
    pub cosine_similarity: Option<f64>,
    pub mse: Option<f64>,
    pub mae: Option<f64>,
    /// Infinite when the vectors of all sequences equal the reference's.
    pub snr_db: Option<f64>,
    pub pearson_correlation: Option<f64>,
    pub token_kl_mean: Option<f64>,
    pub token_kl_median: Option<f64>,
    pub token_kl_p99: Option<f64>,
    pub token_kl_max: Option<f64>,
    pub same_top1: Option<f64>,
    pub perplexity: Option<f64>,
    pub next_token_accuracy: Option<f64>,
    pub bits_per_base: Option<f64>,
    pub non_finite: Option<u64>,
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub condition: String,
    pub batch_size: Option<u64>,
    /// [`Status`] in words; empty in the original's tables, which hold successes only.
    pub status: String,
    pub reason: String,
    pub reference_perplexity: Option<f64>,
    pub sequences: Option<u64>,
    pub tokens: Option<u64>,
    /// Sequences equal to the reference, which `snr_db` leaves out unless all are.
    pub snr_infinite: Option<u64>,
    /// What was compared with.
    pub reference: String,
    /// What the intervals' bootstrap draws: `genome` or `sequence`.
    pub interval_unit: String,
}

impl QualityRow {
    fn new(record: &Record, layer: &str) -> Self {
        let Cell {
            mode,
            model,
            backend,
            device,
            precision,
            condition,
            batch_size,
            ..
        } = &record.cell;
        let quality = record.quality.as_ref();
        let reason = if record.reason.is_empty() {
            quality.map(|quality| &quality.reason)
        } else {
            None
        };
        Self {
            quantization_mode: mode.clone(),
            layer: layer.to_owned(),
            model: model.clone(),
            backend: backend.clone(),
            device: device.clone(),
            precision: precision.clone(),
            condition: condition.clone(),
            batch_size: Some(*batch_size as u64),
            status: record.status.as_str().to_owned(),
            reason: reason.unwrap_or(&record.reason).clone(),
            sequences: quality.map(|quality| quality.sequences),
            tokens: quality.map(|quality| quality.tokens),
            reference: quality
                .map(|quality| quality.reference.clone())
                .unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Whether the row's cell ended well; its numbers may still be empty, with a reason.
    pub fn is_ok(&self) -> bool {
        self.status.is_empty() || self.status == Status::Ok.as_str()
    }

    /// What was measured, by the name of the column; rows of a comparison should agree in it.
    pub fn setting(&self) -> [(&'static str, &str); 5] {
        [
            ("model", &self.model),
            ("backend", &self.backend),
            ("device", &self.device),
            ("precision", &self.precision),
            ("condition", &self.condition),
        ]
    }

    fn pooled(record: &Record, layer: &LayerQuality) -> Self {
        let snr = layer.snr_db.or((layer.snr_infinite > 0).then_some(f64::INFINITY));
        Self {
            kl_divergence: number(layer.kl_divergence),
            js_divergence: number(layer.js_divergence),
            cosine_similarity: number(layer.cosine_similarity),
            mse: number(layer.mse),
            mae: number(layer.mae),
            snr_db: number(snr),
            pearson_correlation: number(layer.pearson_correlation),
            non_finite: Some(layer.non_finite),
            snr_infinite: Some(layer.snr_infinite),
            ..Self::new(record, &layer.layer)
        }
    }

    fn token_level(record: &Record, tokens: &TokenQuality) -> Self {
        Self {
            token_kl_mean: number(Some(tokens.kl.mean.value)),
            token_kl_median: number(Some(tokens.kl.median)),
            token_kl_p99: number(Some(tokens.kl.p99)),
            token_kl_max: number(Some(tokens.kl.max)),
            same_top1: number(Some(tokens.same_top1.value)),
            perplexity: number(Some(tokens.perplexity.value)),
            next_token_accuracy: number(Some(tokens.next_token_accuracy.value)),
            bits_per_base: number(Some(tokens.bits_per_base.value)),
            non_finite: Some(tokens.non_finite),
            reference_perplexity: number(Some(tokens.reference_perplexity)),
            interval_unit: tokens.interval_unit.clone(),
            ..Self::new(record, LOGITS_LAYER)
        }
    }
}

/// Whether a mode is a row of the noise floor (`standard~aa`, `standard~bf16noise`): in `quality_metrics.csv` only, no
/// part of means, figures and comparisons.
pub fn is_noise_floor(mode: &str) -> bool {
    mode.contains('~')
}

/// "Not a number" is no value; an infinite one is.
pub(super) fn number(value: Option<f64>) -> Option<f64> {
    value.filter(|value| !value.is_nan())
}

/// One row of `distribution_statistics.csv`: the values of one layer, of the reference or of the mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are the columns, defined in `DistributionStatistics`"
)]
pub struct DistributionRow {
    pub quantization_mode: String,
    pub layer: String,
    /// `standard_stats` or `quantized_stats`.
    #[serde(rename = "type")]
    pub kind: String,
    pub mean: Option<f64>,
    pub std: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub median: Option<f64>,
    pub q25: Option<f64>,
    pub q75: Option<f64>,
    pub skewness: Option<f64>,
    pub kurtosis: Option<f64>,
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub condition: String,
    pub batch_size: Option<u64>,
}

impl DistributionRow {
    fn new(cell: &Cell, statistics: &DistributionStatistics) -> Self {
        Self {
            quantization_mode: cell.mode.clone(),
            layer: statistics.layer.clone(),
            kind: statistics.kind.clone(),
            mean: number(Some(statistics.mean)),
            std: number(Some(statistics.std)),
            min: number(Some(statistics.min)),
            max: number(Some(statistics.max)),
            median: number(Some(statistics.median)),
            q25: number(Some(statistics.q25)),
            q75: number(Some(statistics.q75)),
            skewness: number(Some(statistics.skewness)),
            kurtosis: number(Some(statistics.kurtosis)),
            model: cell.model.clone(),
            backend: cell.backend.clone(),
            device: cell.device.clone(),
            precision: cell.precision.clone(),
            condition: cell.condition.clone(),
            batch_size: Some(cell.batch_size as u64),
        }
    }
}

pub(super) fn usable(record: &Record) -> Option<&Quality> {
    record
        .quality
        .as_ref()
        .filter(|quality| matches!(record.status, Status::Ok | Status::Invalid) && quality.reason.is_empty())
}

/// The rows of `quality_metrics.csv` for the quality records among `records`, without the columns that only token-level
/// rows have.
pub fn quality_rows(records: &[Record]) -> Vec<QualityRow> {
    whole_rows(records).into_iter().map(|(row, _)| row).collect()
}

fn whole_rows(records: &[Record]) -> Vec<(QualityRow, TokenColumns)> {
    let mut rows = Vec::new();
    for record in records
        .iter()
        .filter(|record| record.cell.kind == CellKind::Quality)
    {
        let quality = usable(record);
        for layer in POOLED_LAYERS {
            let metrics =
                quality.and_then(|quality| quality.layers.iter().find(|metrics| metrics.layer == layer));
            let row = match metrics {
                Some(metrics) => QualityRow::pooled(record, metrics),
                None => QualityRow::new(record, layer),
            };
            rows.push((row, TokenColumns::default()));
        }
        rows.push(match quality.and_then(|quality| quality.tokens_level.as_ref()) {
            Some(tokens) => (QualityRow::token_level(record, tokens), TokenColumns::new(tokens)),
            None => (QualityRow::new(record, LOGITS_LAYER), TokenColumns::default()),
        });
    }
    rows
}

/// The rows of `distribution_statistics.csv`: pooled values of quality cells (`last`, `second_last`), and the values of
/// every hidden state of layer cells (`hidden_0` ...).
pub fn distribution_rows(records: &[Record]) -> Vec<DistributionRow> {
    let statistics = |record: &Record| match (&record.evaluation, record.cell.kind) {
        (Some(Evaluation::Layers(layers)), _) => layers.distributions.clone(),
        (_, CellKind::Quality) => {
            usable(record).map_or_else(Vec::new, |quality| quality.distributions.clone())
        }
        _ => Vec::new(),
    };
    records
        .iter()
        .filter(|record| !is_noise_floor(&record.cell.mode))
        .flat_map(|record| {
            statistics(record)
                .into_iter()
                .map(|statistics| DistributionRow::new(&record.cell, &statistics))
        })
        .collect()
}

/// Writes the quality tables into `directory` and returns their paths; without quality records, nothing.
///
/// # Errors
/// [`ResultsError::Io`] when the directory cannot be written.
pub fn write_quality_tables(directory: &Path, records: &[Record]) -> Result<Vec<PathBuf>, ResultsError> {
    let rows = whole_rows(records);
    let distributions = distribution_rows(records);
    let statistics = directory.join(DISTRIBUTION_FILE);
    if rows.is_empty() && distributions.is_empty() {
        return Ok(Vec::new());
    }
    write_table(&statistics, &distributions)?;
    if rows.is_empty() {
        return Ok(vec![statistics]);
    }
    let metrics = directory.join(QUALITY_FILE);
    write_table(&metrics, &rows)?;
    let groups = directory.join(GROUP_FILE);
    write_table(&groups, &group_rows(records))?;
    let sequences = directory.join(SEQUENCE_FILE);
    write_table(&sequences, &sequence_rows(records))?;
    Ok(vec![metrics, statistics, groups, sequences])
}

/// Reads a `quality_metrics.csv`, ours or the original's.
///
/// # Errors
/// [`ResultsError::MissingColumn`] and the other faults of a table.
pub fn read_quality(path: &Path) -> Result<Vec<QualityRow>, ResultsError> {
    Ok(read_table(path, &["quantization_mode", "layer"], &[], &TEXT)?.0)
}

/// Reads a `distribution_statistics.csv`, ours or the original's.
///
/// # Errors
/// [`ResultsError::MissingColumn`] and the other faults of a table.
pub fn read_distributions(path: &Path) -> Result<Vec<DistributionRow>, ResultsError> {
    Ok(read_table(path, &["quantization_mode", "layer", "type"], &[], &TEXT)?.0)
}

#[cfg(test)]
mod tests;
