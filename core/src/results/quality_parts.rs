//! `quality_by_group.csv` and `quality_by_sequence.csv`: the token level of each quality cell, taken apart.

use serde::Serialize;

use super::quality::{is_noise_floor, number, usable};
use super::{Cell, CellKind, Record, SequenceQuality, TokenGroup, TokenQuality};

/// Name of the table by genome, by share of G and C, and by the reference's confidence.
pub const GROUP_FILE: &str = "quality_by_group.csv";
/// Name of the table by sequence.
pub const SEQUENCE_FILE: &str = "quality_by_sequence.csv";

/// One row of `quality_by_group.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns, defined in `TokenGroup`")]
pub struct GroupRow {
    pub quantization_mode: String,
    /// `genome`, `gc` or `confidence`.
    pub grouping: &'static str,
    pub group: String,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub positions: u64,
    pub predicted: u64,
    pub token_kl_mean: Option<f64>,
    pub token_kl_mean_low: Option<f64>,
    pub token_kl_mean_high: Option<f64>,
    pub same_top1: Option<f64>,
    pub perplexity: Option<f64>,
    pub reference_perplexity: Option<f64>,
    pub next_token_accuracy: Option<f64>,
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub condition: String,
    pub batch_size: u64,
}

impl GroupRow {
    fn new(cell: &Cell, grouping: &'static str, group: &TokenGroup) -> Self {
        Self {
            quantization_mode: cell.mode.clone(),
            grouping,
            group: group.label.clone(),
            low: group.low,
            high: group.high,
            positions: group.positions,
            predicted: group.predicted,
            token_kl_mean: number(Some(group.kl.value)),
            token_kl_mean_low: group.kl.interval.map(|interval| interval.low),
            token_kl_mean_high: group.kl.interval.map(|interval| interval.high),
            same_top1: number(Some(group.same_top1)),
            perplexity: number(Some(group.perplexity)),
            reference_perplexity: number(Some(group.reference_perplexity)),
            next_token_accuracy: number(Some(group.next_token_accuracy)),
            model: cell.model.clone(),
            backend: cell.backend.clone(),
            device: cell.device.clone(),
            precision: cell.precision.clone(),
            condition: cell.condition.clone(),
            batch_size: cell.batch_size as u64,
        }
    }
}

/// One row of `quality_by_sequence.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are the columns, defined in `SequenceQuality`"
)]
pub struct SequenceRow {
    pub quantization_mode: String,
    pub sequence: usize,
    pub genome: String,
    pub gc: Option<f64>,
    pub positions: u64,
    pub predicted: u64,
    pub bases: u64,
    pub token_kl_mean: Option<f64>,
    pub nll: Option<f64>,
    pub reference_nll: Option<f64>,
    pub same_top1: u64,
    pub correct: u64,
    pub reference_correct: u64,
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub condition: String,
    pub batch_size: u64,
}

impl SequenceRow {
    fn new(cell: &Cell, tokens: &TokenQuality, sequence: &SequenceQuality) -> Self {
        let genome = tokens.by_genome.get(sequence.genome);
        Self {
            quantization_mode: cell.mode.clone(),
            sequence: sequence.sequence,
            genome: genome.map(|genome| genome.label.clone()).unwrap_or_default(),
            gc: sequence.gc,
            positions: sequence.positions,
            predicted: sequence.predicted,
            bases: sequence.bases,
            token_kl_mean: number(Some(sequence.kl)),
            nll: number(Some(sequence.nll)),
            reference_nll: number(Some(sequence.reference_nll)),
            same_top1: sequence.same_top1,
            correct: sequence.correct,
            reference_correct: sequence.reference_correct,
            model: cell.model.clone(),
            backend: cell.backend.clone(),
            device: cell.device.clone(),
            precision: cell.precision.clone(),
            condition: cell.condition.clone(),
            batch_size: cell.batch_size as u64,
        }
    }
}

/// The token-level numbers of the quality records among `records`.
fn token_level(records: &[Record]) -> impl Iterator<Item = (&Cell, &TokenQuality)> {
    records
        .iter()
        .filter(|record| record.cell.kind == CellKind::Quality && !is_noise_floor(&record.cell.mode))
        .filter_map(|record| Some((&record.cell, usable(record)?.tokens_level.as_ref()?)))
}

/// The rows of `quality_by_group.csv` for the quality records among `records`.
pub fn group_rows(records: &[Record]) -> Vec<GroupRow> {
    let mut rows = Vec::new();
    for (cell, tokens) in token_level(records) {
        for (grouping, groups) in [
            ("genome", &tokens.by_genome),
            ("gc", &tokens.by_gc),
            ("confidence", &tokens.by_confidence),
        ] {
            rows.extend(groups.iter().map(|group| GroupRow::new(cell, grouping, group)));
        }
    }
    rows
}

/// The rows of `quality_by_sequence.csv` for the quality records among `records`.
pub fn sequence_rows(records: &[Record]) -> Vec<SequenceRow> {
    token_level(records)
        .flat_map(|(cell, tokens)| {
            tokens
                .sequences
                .iter()
                .map(move |sequence| SequenceRow::new(cell, tokens, sequence))
        })
        .collect()
}
