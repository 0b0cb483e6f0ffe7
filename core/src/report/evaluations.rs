//! What quantising does to layers, parts and biology.

use super::format::{close_to_one, number};
use super::text_table::TextTable;
use crate::results::{Evaluation, Record, Status, sensitivity_rows};

fn good(records: &[Record]) -> impl Iterator<Item = (&Record, &Evaluation)> {
    records
        .iter()
        .filter(|record| record.status == Status::Ok)
        .filter_map(|record| Some((record, record.evaluation.as_ref()?)))
}

/// The hidden state that is hit hardest of each mode, and the last.
pub(super) fn layers(records: &[Record]) -> String {
    let mut table = TextTable::new([
        "mode",
        "condition",
        "lowest SNR dB",
        "at state",
        "SNR of last dB",
        "cosine of last",
        "largest value",
        "reference's",
    ]);
    let mut any = false;
    for (record, evaluation) in good(records) {
        let Evaluation::Layers(layers) = evaluation else {
            continue;
        };
        let states = &layers.hidden_states;
        let lowest = states
            .iter()
            .filter(|state| !state.snr_db.is_nan())
            .min_by(|one, other| one.snr_db.total_cmp(&other.snr_db));
        let Some((lowest, last)) = lowest.zip(states.last()) else {
            continue;
        };
        any = true;
        let largest = |value: fn(&crate::results::HiddenStateQuality) -> f64| {
            number(states.iter().map(value).reduce(f64::max))
        };
        table.push(vec![
            record.cell.mode.clone(),
            record.cell.condition.clone(),
            number(Some(lowest.snr_db)),
            if lowest.snr_db.is_finite() {
                lowest.index.to_string()
            } else {
                "-".to_owned()
            },
            number(Some(last.snr_db)),
            close_to_one(last.cosine_mean),
            largest(|state| state.max_inf_norm),
            largest(|state| state.reference_max_inf_norm),
        ]);
    }
    if any { table.render() } else { String::new() }
}

/// The parts by rank.
pub(super) fn sensitivity(records: &[Record]) -> String {
    let rows = sensitivity_rows(records);
    if rows.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new([
        "mode",
        "condition",
        "rank",
        "part",
        "KL mean",
        "share of sum",
        "perplexity",
    ]);
    for (row, cell) in &rows {
        table.push(vec![
            row.quantization_mode.clone(),
            cell.condition.clone(),
            row.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string()),
            row.part.clone(),
            number(row.token_kl_mean),
            number(row.share),
            number(row.perplexity),
        ]);
    }
    table.render()
}

/// A line for each mode and condition: which part hurts most.
pub(super) fn worst_parts(records: &[Record]) -> Vec<String> {
    let rows = sensitivity_rows(records);
    let worst = rows.iter().filter(|(row, _)| row.rank == Some(1));
    worst
        .map(|(row, cell)| {
            format!(
                "{}, {}: quantising {} alone hurts most: KL {} nats a token, {} % of the sum over all parts",
                row.quantization_mode,
                cell.condition,
                row.part,
                number(row.token_kl_mean),
                number(row.share.map(|share| share * 100.0))
            )
        })
        .collect()
}

/// Strands, variants and bins, each mode beside the reference.
pub(super) fn biology(records: &[Record]) -> String {
    let mut strands = TextTable::new([
        "strands read by",
        "condition",
        "difference bits/base",
        "reference",
        "change (RMS)",
        "cosine",
        "reference",
    ]);
    let mut variants = TextTable::new([
        "variants scored by",
        "condition",
        "Spearman",
        "95 % interval",
        "lowest tenth shared",
        "RMS difference nats",
        "spread of reference",
    ]);
    let mut bins = TextTable::new([
        "binned by",
        "condition",
        "ARI",
        "reference",
        "V-measure",
        "purity",
        "silhouette",
        "same clusters (ARI)",
    ]);
    let mut any = [false; 3];
    for (record, evaluation) in good(records) {
        let mut row = vec![record.cell.mode.clone(), record.cell.condition.clone()];
        match evaluation {
            Evaluation::ReverseComplement(found) => {
                row.extend([
                    number(found.strand_difference),
                    number(found.reference_strand_difference),
                    number(found.difference_rmse),
                    number(found.strand_cosine),
                    number(found.reference_strand_cosine),
                ]);
                strands.push(row);
                any[0] = true;
            }
            Evaluation::Variants(found) => {
                row.extend([
                    number(found.spearman),
                    found.spearman_interval.map_or_else(
                        || "-".to_owned(),
                        |[low, high]| format!("{} to {}", number(Some(low)), number(Some(high))),
                    ),
                    number(found.top_decile_overlap),
                    number(found.rmse),
                    number(found.reference_std),
                ]);
                variants.push(row);
                any[1] = true;
            }
            Evaluation::Binning(found) => {
                row.extend([
                    number(found.agreement.ari),
                    number(found.reference_agreement.ari),
                    number(found.agreement.v_measure),
                    number(found.agreement.purity),
                    number(found.agreement.silhouette),
                    number(found.ari_with_reference),
                ]);
                bins.push(row);
                any[2] = true;
            }
            Evaluation::Layers(_) => {}
        }
    }
    let tables = [strands, variants, bins].into_iter().zip(any);
    let shown: Vec<String> = tables
        .filter(|(_, any)| *any)
        .map(|(table, _)| table.render())
        .collect();
    shown.join("\n")
}
