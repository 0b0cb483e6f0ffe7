//! `performance_report.txt`: what was measured, in text, with everything that one must know to believe it.

mod text_table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::analysis::{
    Inputs, ModeRows, QualityRows, STANDARD, best_performers, group_by_mode, ordered_modes, significant,
};
use crate::results::{BenchmarkRow, LOGITS_LAYER, QualityRow};
use crate::statistics::Summary;
use text_table::TextTable;

/// Significant digits of the numbers in the report.
const DIGITS: usize = 4;
/// Digits of cosine and correlation, whose differences from 1 matter.
const CLOSE_TO_ONE_DIGITS: usize = 6;

/// A heading with the column under it.
type Column<Row, Value> = (&'static str, fn(&Row) -> Value);
/// A heading with a column of text.
type TextColumn = (&'static str, fn(&BenchmarkRow) -> &str);

/// The main numbers by mode: speed, latency, memory, energy, and what the mode does to the model.
pub fn overview(inputs: &Inputs) -> String {
    let quality = QualityRows::new(&inputs.quality);
    let groups = group_by_mode(&inputs.rows);
    let modes = ordered_modes(groups.iter().map(|group| group.mode).chain(quality.modes()));
    let mut table = TextTable::new([
        "mode",
        "tokens/s",
        "vs standard",
        "ms/batch",
        "static GB",
        "peak GB",
        "tokens/J",
        "token KL",
        "perplexity",
        "cosine (last)",
    ]);
    let mean = |mode: &str, column: fn(&BenchmarkRow) -> Option<f64>| {
        let group = groups.iter().find(|group| group.mode == mode)?;
        Summary::of(&group.values(column)).map(|summary| summary.mean)
    };
    let quality_mean = |mode: &str, layer: &str, column: fn(&QualityRow) -> Option<f64>| {
        quality.summary(mode, layer, column).map(|summary| summary.mean)
    };
    let standard = mean(STANDARD, |row| row.tokens_per_s);
    for mode in modes {
        let rate = mean(mode, |row| row.tokens_per_s);
        let ratio = rate.zip(standard).map(|(rate, standard)| rate / standard);
        table.push(vec![
            mode.to_owned(),
            number(rate),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x")),
            number(mean(mode, |row| row.E2EL_ms)),
            number(mean(mode, |row| row.static_vram_GB)),
            number(mean(mode, |row| row.peak_vram_GB)),
            number(mean(mode, |row| row.tokens_per_watt)),
            number(quality_mean(mode, LOGITS_LAYER, |row| row.token_kl_mean)),
            number(quality_mean(mode, LOGITS_LAYER, |row| row.perplexity)),
            close_to_one(quality_mean(mode, "last", |row| row.cosine_similarity)),
        ]);
    }
    table.render()
}

/// The whole report. `files` are the tables and figures written beside it.
pub fn performance_report(inputs: &Inputs, results_dir: &Path, files: &[PathBuf]) -> String {
    let groups = group_by_mode(&inputs.rows);
    let quality = QualityRows::new(&inputs.quality);
    let mut report = String::from("qbench performance report\n=========================\n");
    let mut section = |title: &str, body: &str| {
        if !body.is_empty() {
            let rule = "-".repeat(title.chars().count());
            report.extend([
                "
", title, "
", &rule, "
", body,
            ]);
        }
    };
    section("What was measured", &setting(inputs, results_dir));
    section("Overview (means)", &overview(inputs));
    section(
        "Throughput and latency (mean ± standard deviation)",
        &speed(&groups),
    );
    section(
        "Memory (mean ± standard deviation; 1 GB = 1e9 bytes)",
        &memory(&groups),
    );
    section("Energy (mean ± standard deviation)", &energy(inputs, &groups));
    section("Best performers (single rows)", &best(&inputs.rows));
    section(
        "Quality: next-token distribution (KL in nats)",
        &token_quality(&quality),
    );
    section("Quality: pooled embeddings", &pooled_quality(&quality));
    section("Quality without numbers", &empty_quality(&inputs.quality));
    section("How the weights were executed", &execution(&groups));
    section("Failed cells", &failures(inputs));
    section("Warnings", &bullets(inputs.warnings.iter().map(String::as_str)));
    let names = files
        .iter()
        .filter_map(|path| path.file_name())
        .filter_map(|name| name.to_str());
    section("Files", &bullets(names));
    report
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| significant(value, DIGITS))
}

fn close_to_one(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| significant(value, CLOSE_TO_ONE_DIGITS))
}

fn with_deviation(summary: Option<Summary>) -> String {
    match summary {
        None => "-".to_owned(),
        Some(Summary { mean, std: None, .. }) => significant(mean, DIGITS),
        Some(Summary {
            mean, std: Some(std), ..
        }) => {
            format!("{} ± {}", significant(mean, DIGITS), significant(std, 2))
        }
    }
}

fn bullets<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.flat_map(|line| ["  - ", line, "\n"]).collect()
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<BTreeSet<T>>().into_iter().collect()
}

fn setting(inputs: &Inputs, results_dir: &Path) -> String {
    let mut table = Vec::new();
    table.push(("results", results_dir.display().to_string()));
    let sources = inputs
        .sources
        .iter()
        .map(|path| path.strip_prefix(results_dir).unwrap_or(path));
    table.push((
        "files read",
        sources
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    ));
    let columns: [TextColumn; 10] = [
        ("model", |row| &row.model),
        ("backend", |row| &row.backend),
        ("library", |row| &row.torch),
        ("device", |row| &row.device),
        ("device name", |row| {
            if row.device_name.is_empty() {
                &row.gpu_name
            } else {
                &row.device_name
            }
        }),
        ("driver", |row| &row.driver),
        ("CUDA", |row| &row.cuda),
        ("precision", |row| &row.precision),
        ("condition", |row| &row.condition),
        ("memory counted by", |row| &row.memory_measured_by),
    ];
    for (name, value) in columns {
        let values = distinct(inputs.rows.iter().map(value).filter(|value| !value.is_empty()));
        table.push((name, values.join(", ")));
    }
    let counts: [Column<BenchmarkRow, Option<u64>>; 5] = [
        ("batch sizes", |row| row.batch_size),
        ("timed batches", |row| row.runs),
        ("warm-up batches", |row| row.warmup),
        ("sequences cut", |row| row.truncated_seqs),
        ("threads", |row| row.threads),
    ];
    for (name, value) in counts {
        let values = distinct(inputs.rows.iter().filter_map(value));
        table.push((
            name,
            values.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        ));
    }
    let ok = inputs.rows.iter().filter(|row| row.is_ok()).count();
    table.push((
        "rows",
        format!("{} measured, {} failed", ok, inputs.rows.len() - ok),
    ));
    table.retain(|(_, value)| !value.is_empty());
    let lines: Vec<String> = table
        .iter()
        .map(|(name, value)| format!("  {name:<18} {value}\n"))
        .collect();
    lines.concat()
}

/// A table of `mean ± std` by mode, columns that nobody measured left out; empty when none is left.
fn summaries(groups: &[ModeRows], columns: &[Column<BenchmarkRow, Option<f64>>]) -> String {
    let measured: Vec<_> = columns
        .iter()
        .filter(|(_, column)| groups.iter().any(|group| !group.values(column).is_empty()))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(
        ["mode", "rows"]
            .into_iter()
            .chain(measured.iter().map(|(heading, _)| *heading)),
    );
    for group in groups {
        let mut row = vec![group.mode.to_owned(), group.rows.len().to_string()];
        row.extend(
            measured
                .iter()
                .map(|(_, column)| with_deviation(Summary::of(&group.values(column)))),
        );
        table.push(row);
    }
    table.render()
}

fn speed(groups: &[ModeRows]) -> String {
    summaries(
        groups,
        &[
            ("tokens/s", |row| row.tokens_per_s),
            ("sequences/s", |row| row.seqs_per_s),
            ("bases/s", |row| row.bases_per_s),
            ("ms/batch", |row| row.E2EL_ms),
            ("TFLOP/s", |row| row.TFLOPs_per_s),
            ("load s", |row| row.load_s),
            ("quantise s", |row| row.quantize_s),
        ],
    )
}

fn memory(groups: &[ModeRows]) -> String {
    let table = summaries(
        groups,
        &[
            ("static GB", |row| row.static_vram_GB),
            ("peak GB", |row| row.peak_vram_GB),
        ],
    );
    if table.is_empty() && !groups.is_empty() {
        "  not measured\n".to_owned()
    } else {
        table
    }
}

fn energy(inputs: &Inputs, groups: &[ModeRows]) -> String {
    let mut text = summaries(
        groups,
        &[
            ("tokens/J", |row| row.tokens_per_watt),
            ("W", |row| row.avg_power_W),
            ("kWh", |row| row.energy_kWh),
            ("J/token", |row| row.J_per_token),
            ("J/Mbp", |row| row.J_per_Mbp),
        ],
    );
    let without: Vec<&BenchmarkRow> = inputs
        .rows
        .iter()
        .filter(|row| row.is_ok() && row.avg_power_W.is_none())
        .collect();
    if !without.is_empty() {
        let reasons = distinct(
            without
                .iter()
                .map(|row| row.energy_reason.as_str())
                .filter(|reason| !reason.is_empty()),
        );
        let reasons = if reasons.is_empty() {
            "the file gives no reason".to_owned()
        } else {
            reasons.join("; ")
        };
        text.extend([
            "  no power reading in ",
            &without.len().to_string(),
            " rows: ",
            &reasons,
            "
",
        ]);
    }
    text
}

fn best(rows: &[BenchmarkRow]) -> String {
    let best = best_performers(rows);
    if best.rows.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(best.header.iter().map(String::as_str));
    for row in &best.rows {
        table.push(row.iter().map(crate::analysis::Field::to_text).collect());
    }
    table.render()
}

fn token_quality(quality: &QualityRows) -> String {
    let columns: [Column<QualityRow, Option<f64>>; 9] = [
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

fn pooled_quality(quality: &QualityRows) -> String {
    let columns: [Column<QualityRow, Option<f64>>; 7] = [
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

fn quality_table(
    quality: &QualityRows,
    layers: &[&str],
    columns: &[Column<QualityRow, Option<f64>>],
) -> String {
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

fn empty_quality(rows: &[QualityRow]) -> String {
    let empty = rows.iter().filter(|row| row.is_ok() && !row.reason.is_empty());
    let lines = distinct(empty.map(|row| format!("{}: {}", row.quantization_mode, row.reason)));
    bullets(lines.iter().map(String::as_str))
}

fn execution(groups: &[ModeRows]) -> String {
    let mut lines = Vec::new();
    for group in groups {
        let executions = group.rows.iter().map(|row| row.execution.as_str());
        for execution in distinct(executions.filter(|text| !text.is_empty())) {
            lines.extend(
                execution
                    .split("; ")
                    .map(|layout| format!("  {:<18} {layout}\n", group.mode)),
            );
        }
    }
    lines.concat()
}

fn failures(inputs: &Inputs) -> String {
    let performance = inputs.rows.iter().filter(|row| !row.is_ok()).map(|row| {
        let batch_size = row
            .batch_size
            .map_or_else(|| "-".to_owned(), |size| size.to_string());
        let repeat = row
            .repeat
            .map_or_else(|| "-".to_owned(), |repeat| repeat.to_string());
        format!(
            "{} ({}, {}, {}, {}, {}, batch {batch_size}, repeat {repeat}): {}: {}",
            row.quantization,
            row.model,
            row.backend,
            row.device,
            row.precision,
            row.condition,
            row.status,
            row.reason
        )
    });
    let quality = inputs.quality.iter().filter(|row| !row.is_ok()).map(|row| {
        format!(
            "quality of {} ({}, {}, {}, {}, {}): {}: {}",
            row.quantization_mode,
            row.model,
            row.backend,
            row.device,
            row.precision,
            row.condition,
            row.status,
            row.reason
        )
    });
    let mut lines: Vec<String> = performance.chain(quality).collect();
    // A failed quality cell has a row for each layer.
    lines.dedup();
    bullets(lines.iter().map(String::as_str))
}
