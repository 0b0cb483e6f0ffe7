//! `performance_report.txt`: what was measured, in text, with everything that one must know to believe it.

mod by_setting;
mod card;
mod evaluations;
mod failures;
mod format;
mod performance;
mod quality;
mod setting;
pub(crate) mod text_table;
mod timing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::analysis::{
    Field, Inputs, ModeRows, QualityRows, STANDARD, Table, TimedCell, group_by_mode, only_cell, ordered_modes,
};
use crate::results::{BenchmarkRow, LOGITS_LAYER, QualityRow};
use crate::statistics::{Interval, Summary};
pub use card::card;
use format::{bullets, close_to_one, number, range};
use text_table::TextTable;

/// The main numbers by mode: speed, latency, memory, energy, and what the mode does to the model. Where cells failed or
/// are invalid, how many; numbers are means over the others.
pub fn overview(inputs: &Inputs) -> String {
    let quality = QualityRows::new(&inputs.quality);
    let groups = group_by_mode(&inputs.rows);
    let faulty = inputs.faulty();
    let named = groups.iter().map(|group| group.mode).chain(quality.modes());
    let modes = ordered_modes(named.chain(faulty.keys().map(String::as_str)));
    let mut header = vec![
        "mode",
        "tokens/s",
        "95 % interval",
        "vs standard",
        "ms/batch",
        "static GB",
        "peak GB",
        "tokens/J",
        "token KL",
        "perplexity",
        "cosine (last)",
    ];
    if !faulty.is_empty() {
        header.push("cells not ok");
    }
    let mut table = TextTable::new(header);
    let mean = |mode: &str, column: fn(&BenchmarkRow) -> Option<f64>| {
        let group = groups.iter().find(|group| group.mode == mode)?;
        Summary::of(&group.values(column)).map(|summary| summary.mean)
    };
    let quality_mean = |mode: &str, layer: &str, column: fn(&QualityRow) -> Option<f64>| {
        quality.summary(mode, layer, column).map(|summary| summary.mean)
    };
    let any = !modes.is_empty();
    for mode in modes {
        let speed = Speed::of(mode, &inputs.timed, &groups);
        let interval = speed.interval.map_or_else(|| "-".to_owned(), range);
        let ratio = speed.against_standard;
        let mut line = vec![
            mode.to_owned(),
            number(speed.tokens_per_second),
            interval,
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x")),
            number(speed.batch_milliseconds),
            number(mean(mode, |row| row.static_vram_GB)),
            number(mean(mode, |row| row.peak_vram_GB)),
            number(mean(mode, |row| row.tokens_per_watt)),
            number(quality_mean(mode, LOGITS_LAYER, |row| row.token_kl_mean)),
            number(quality_mean(mode, LOGITS_LAYER, |row| row.perplexity)),
            close_to_one(quality_mean(mode, "last", |row| row.cosine_similarity)),
        ];
        if !faulty.is_empty() {
            line.push(faulty.get(mode).map_or_else(|| "-".to_owned(), counted));
        }
        table.push(line);
    }
    let mut text = if any { table.render() } else { String::new() };
    for line in evaluations::worst_parts(&inputs.evaluation_records) {
        text.extend(["  ", &line, "\n"]);
    }
    text
}

/// How fast a mode is, as summaries say it.
struct Speed {
    tokens_per_second: Option<f64>,
    interval: Option<Interval>,
    /// Above 1 for faster than `standard`.
    against_standard: Option<f64>,
    batch_milliseconds: Option<f64>,
}

impl Speed {
    /// Where the samples of all repeats in one setting are there, that of the typical time and of the ratios within blocks,
    /// else means of the rows.
    fn of(mode: &str, cells: &[TimedCell], groups: &[ModeRows]) -> Self {
        if let Some(cell) = only_cell(cells, mode) {
            let (rate, interval) = cell.tokens_per_second();
            return Self {
                tokens_per_second: Some(rate),
                interval,
                against_standard: cell.speed,
                batch_milliseconds: Some(cell.typical * 1e3),
            };
        }
        let mean = |mode: &str, column: fn(&BenchmarkRow) -> Option<f64>| {
            let group = groups.iter().find(|group| group.mode == mode)?;
            Summary::of(&group.values(column)).map(|summary| summary.mean)
        };
        let rate = |mode: &str| mean(mode, |row| row.tokens_per_s);
        Self {
            tokens_per_second: rate(mode),
            interval: None,
            against_standard: rate(mode)
                .zip(rate(STANDARD))
                .map(|(rate, standard)| rate / standard),
            batch_milliseconds: mean(mode, |row| row.batch_ms_median.or(row.E2EL_ms)),
        }
    }
}

/// A table in full, for reading.
pub(crate) fn whole_table(table: &Table) -> String {
    let mut text = TextTable::new(table.header.iter().map(String::as_str));
    for row in &table.rows {
        text.push(row.iter().map(Field::to_text).collect());
    }
    text.render()
}

/// Numbers of cells by status: `1 crashed, 2 invalid`.
fn counted(statuses: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = statuses
        .iter()
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    parts.join(", ")
}

/// The whole report. `files` are the tables and figures written beside it.
pub fn performance_report(inputs: &Inputs, results_dir: &Path, files: &[PathBuf]) -> String {
    let groups = group_by_mode(&inputs.rows);
    let quality = QualityRows::new(&inputs.quality);
    let mut report = String::from("qbench performance report\n=========================\n");
    let mut section = |title: &str, body: &str| {
        if !body.is_empty() {
            let rule = "-".repeat(title.chars().count());
            report.extend(["\n", title, "\n", &rule, "\n", body]);
        }
    };
    section("What was measured", &setting::setting(inputs, results_dir));
    section(
        "Overview (means; of speed, where samples were kept, medians and the ratio to standard block by block)",
        &overview(inputs),
    );
    section(
        "Time of a batch over repeats (medians; 95 % intervals in brackets)",
        &timing::timing(&inputs.timed),
    );
    section(
        "Throughput and latency (mean ± standard deviation)",
        &performance::speed(&groups),
    );
    section(
        "Generation (medians of each repeat; mean ± standard deviation over repeats)",
        &performance::generation(&groups),
    );
    section(
        "Throughput, latency and memory by setting (means)",
        &by_setting::by_setting(&inputs.rows),
    );
    section(
        "Memory (mean ± standard deviation; 1 GB = 1e9 bytes)",
        &performance::memory(&groups),
    );
    section(
        "Energy (mean ± standard deviation)",
        &performance::energy(inputs, &groups),
    );
    section("Best performers (single rows)", &performance::best(&inputs.rows));
    section(
        "Quality: next-token distribution (KL in nats)",
        &quality::token_quality(&quality),
    );
    section("Quality: pooled embeddings", &quality::pooled_quality(&quality));
    let evaluated = &inputs.evaluation_records;
    section("Hidden states", &evaluations::layers(evaluated));
    section(
        "Sensitivity: one part quantised, worst first",
        &evaluations::sensitivity(evaluated),
    );
    section("Biology", &evaluations::biology(evaluated));
    section(
        "Quality without numbers",
        &quality::empty_quality(&inputs.quality),
    );
    section("How the weights were executed", &performance::execution(&groups));
    section("Cells that failed or are invalid", &failures::failures(inputs));
    section("Warnings", &bullets(inputs.warnings.iter().map(String::as_str)));
    let names = files
        .iter()
        .filter_map(|path| path.file_name())
        .filter_map(|name| name.to_str());
    section("Files", &bullets(names));
    report
}
