//! `sensitivity.csv`.

use serde::Serialize;

use super::{CellColumns, Whole};
use crate::results::quality::number;
use crate::results::{Cell, CellKind, Record, Status};

/// A part that was quantised alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SensitivityRow {
    /// The mode.
    pub quantization_mode: String,
    /// What was quantised.
    pub part: String,
    /// 1 hurts most, among the parts of the mode in the same setting.
    pub rank: Option<u64>,
    /// Mean KL(reference ‖ mode) a token, nats.
    pub token_kl_mean: Option<f64>,
    /// Lower end of its 95 % interval.
    pub token_kl_mean_low: Option<f64>,
    /// Upper end.
    pub token_kl_mean_high: Option<f64>,
    /// Its share of the sum over the parts.
    pub share: Option<f64>,
    /// Share of positions with the same most likely token.
    pub same_top1: Option<f64>,
    /// Perplexity.
    pub perplexity: Option<f64>,
    /// Weights that were quantised.
    pub weights: Option<u64>,
}

/// The rows of the parts that were quantised alone, in the order of their rank within mode and setting.
pub fn sensitivity_rows(records: &[Record]) -> Vec<Whole<SensitivityRow>> {
    let kl = |record: &Record| Some(record.quality.as_ref()?.tokens_level.as_ref()?.kl.mean.value);
    let same = |one: &Record, other: &Record| {
        let unparted = |record: &Record| Cell {
            part: String::new(),
            ..record.cell.clone()
        };
        unparted(one) == unparted(other)
    };
    let sensitivity: Vec<&Record> = records
        .iter()
        .filter(|record| record.cell.kind == CellKind::Sensitivity)
        .collect();
    let mut rows: Vec<(usize, Whole<SensitivityRow>)> = Vec::new();
    for record in &sensitivity {
        let group = || sensitivity.iter().filter(|other| same(record, other));
        let own = kl(record).filter(|_| record.status == Status::Ok);
        let others = || {
            group()
                .filter(|other| other.status == Status::Ok)
                .filter_map(|other| kl(other))
        };
        let tokens = record
            .quality
            .as_ref()
            .and_then(|quality| quality.tokens_level.as_ref());
        let rank = own.map(|own| 1 + others().filter(|other| *other > own).count() as u64);
        let row = SensitivityRow {
            quantization_mode: record.cell.mode.clone(),
            part: record.cell.part.clone(),
            rank,
            token_kl_mean: number(kl(record)),
            token_kl_mean_low: tokens.and_then(|tokens| Some(tokens.kl.mean.interval?.low)),
            token_kl_mean_high: tokens.and_then(|tokens| Some(tokens.kl.mean.interval?.high)),
            share: number(own.map(|own| own / others().sum::<f64>())),
            same_top1: number(tokens.map(|tokens| tokens.same_top1.value)),
            perplexity: number(tokens.map(|tokens| tokens.perplexity.value)),
            weights: quantised_weights(record),
        };
        let first = sensitivity
            .iter()
            .position(|other| same(record, other))
            .unwrap_or_default();
        rows.push((first, (row, CellColumns::new(record))));
    }
    rows.sort_by_key(|(first, (row, _))| (*first, row.rank.unwrap_or(u64::MAX)));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Weights that are not stored densely.
fn quantised_weights(record: &Record) -> Option<u64> {
    let quantised = record
        .execution
        .iter()
        .filter(|execution| !execution.layout.starts_with("qbench.dense"));
    (!record.execution.is_empty()).then(|| quantised.map(|execution| execution.weights as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_records::quality_record;

    fn part(name: &str, kl: f64) -> Record {
        let mut record = quality_record("4bit_nf4");
        record.cell.kind = CellKind::Sensitivity;
        name.clone_into(&mut record.cell.part);
        if let Some(tokens) = record
            .quality
            .as_mut()
            .and_then(|quality| quality.tokens_level.as_mut())
        {
            tokens.kl.mean.value = kl;
        }
        record
    }

    #[test]
    fn parts_are_ranked_by_what_they_do_to_predictions() {
        let mut failed = part("layers.3", 0.0);
        failed.status = Status::Crashed;
        failed.quality = None;
        let records = vec![
            part("layers.0", 0.25),
            part("layers.1", 0.5),
            failed,
            part("layers.2", 0.25),
        ];
        let rows = sensitivity_rows(&records);
        let found: Vec<(&str, Option<u64>, Option<f64>)> = rows
            .iter()
            .map(|(row, _)| (row.part.as_str(), row.rank, row.share))
            .collect();
        assert_eq!(
            found,
            [
                ("layers.1", Some(1), Some(0.5)),
                ("layers.0", Some(2), Some(0.25)),
                ("layers.2", Some(2), Some(0.25)),
                ("layers.3", None, None)
            ]
        );
        assert_eq!(rows[3].1.status, "crashed");
    }
}
