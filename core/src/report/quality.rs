//! What the modes do to the model's outputs.

use super::format::{Column, bullets, close_to_one, distinct, number};
use super::text_table::TextTable;
use crate::analysis::QualityRows;
use crate::results::{LOGITS_LAYER, QualityRow};

pub(super) fn token_quality(quality: &QualityRows) -> String {
    let columns: [Column<QualityRow>; 9] = [
        ("KL mean", |row| row.token_kl_mean),
        ("KL median", |row| row.token_kl_median),
        ("KL p99", |row| row.token_kl_p99),
        ("KL max", |row| row.token_kl_max),
        ("same top-1", |row| row.same_top1),
        ("perplexity", |row| row.perplexity),
        ("reference", |row| row.reference_perplexity),
        ("accuracy", |row| row.next_token_accuracy),
        ("bits/base", |row| row.bits_per_base),
    ];
    quality_table(quality, &[LOGITS_LAYER], &columns)
}

pub(super) fn pooled_quality(quality: &QualityRows) -> String {
    let columns: [Column<QualityRow>; 7] = [
        ("KL", |row| row.kl_divergence),
        ("JS", |row| row.js_divergence),
        ("cosine", |row| row.cosine_similarity),
        ("MSE", |row| row.mse),
        ("MAE", |row| row.mae),
        ("SNR dB", |row| row.snr_db),
        ("Pearson", |row| row.pearson_correlation),
    ];
    quality_table(quality, &quality.pooled_layers(), &columns)
}

fn quality_table(quality: &QualityRows, layers: &[&str], columns: &[Column<QualityRow>]) -> String {
    let headings = ["mode", "layer"]
        .into_iter()
        .chain(columns.iter().map(|(heading, _)| *heading));
    let mut table = TextTable::new(headings.chain(["non-finite"]));
    let mut any = false;
    for layer in layers {
        for mode in quality.modes() {
            let values: Vec<Option<f64>> = columns
                .iter()
                .map(|(_, column)| quality.summary(mode, layer, column).map(|summary| summary.mean))
                .collect();
            if values.iter().all(Option::is_none) {
                continue;
            }
            any = true;
            let mut row = vec![mode.to_owned(), (*layer).to_owned()];
            row.extend(
                columns
                    .iter()
                    .zip(values)
                    .map(|((heading, _), value)| match *heading {
                        "cosine" | "Pearson" | "same top-1" => close_to_one(value),
                        _ => number(value),
                    }),
            );
            let non_finite = quality.summary(mode, layer, |row| row.non_finite.map(|count| count as f64));
            row.push(non_finite.map_or_else(|| "-".to_owned(), |summary| summary.max.to_string()));
            table.push(row);
        }
    }
    if any { table.render() } else { String::new() }
}

pub(super) fn empty_quality(rows: &[QualityRow]) -> String {
    let empty = rows.iter().filter(|row| row.is_ok() && !row.reason.is_empty());
    let lines = distinct(empty.map(|row| format!("{}: {}", row.quantization_mode, row.reason)));
    bullets(lines.iter().map(String::as_str))
}
