//! Speed, memory and energy by mode, and how the weights were executed.

use super::format::{Column, distinct, with_deviation};
use super::text_table::TextTable;
use crate::analysis::{Field, Inputs, ModeRows, best_performers};
use crate::results::BenchmarkRow;
use crate::statistics::Summary;

/// A table of `mean ± std` by mode, columns that nobody measured left out; empty when none is left.
fn summaries(groups: &[ModeRows], columns: &[Column<BenchmarkRow>]) -> String {
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

pub(super) fn speed(groups: &[ModeRows]) -> String {
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
            ("quantise GB/s", |row| row.quantize_GB_per_s),
            ("tokenise s", |row| row.tokenize_s),
        ],
    )
}

/// Empty where nothing was generated.
pub(super) fn generation(groups: &[ModeRows]) -> String {
    summaries(
        groups,
        &[
            ("ms to first token", |row| row.ttft_ms_median),
            ("ms a further token", |row| row.tpot_ms_median),
            ("tokens generated", |row| {
                row.generated_tokens.map(|count| count as f64)
            }),
        ],
    )
}

pub(super) fn memory(groups: &[ModeRows]) -> String {
    let table = summaries(
        groups,
        &[
            ("static GB", |row| row.static_vram_GB),
            ("peak GB", |row| row.peak_vram_GB),
            ("declared GB", |row| row.declared_GB),
            ("workspace GB", |row| row.workspace_GB),
            ("by the system GB", |row| row.system_static_GB),
            ("bits/weight", |row| row.bits_per_weight),
        ],
    );
    if table.is_empty() && !groups.is_empty() {
        "  not measured\n".to_owned()
    } else {
        table
    }
}

pub(super) fn energy(inputs: &Inputs, groups: &[ModeRows]) -> String {
    let mut text = summaries(
        groups,
        &[
            ("tokens/J", |row| row.tokens_per_watt),
            ("W", |row| row.avg_power_W),
            ("kWh", |row| row.energy_kWh),
            ("J/token", |row| row.J_per_token),
            ("J/Mbp", |row| row.J_per_Mbp),
            ("J/Mbp net", |row| row.J_per_Mbp_net),
            ("idle W", |row| row.idle_before_W),
            ("°C", |row| row.temperature_C),
            ("SM MHz", |row| row.sm_clock_MHz),
        ],
    );
    let notes = distinct(
        inputs
            .rows
            .iter()
            .filter(|row| row.is_ok() && row.avg_power_W.is_some())
            .map(|row| row.energy_reason.as_str())
            .filter(|notes| !notes.is_empty()),
    );
    text.extend(notes.iter().map(|note| format!("  note: {note}\n")));
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
            "\n",
        ]);
    }
    text
}

pub(super) fn best(rows: &[BenchmarkRow]) -> String {
    let best = best_performers(rows);
    if best.rows.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(best.header.iter().map(String::as_str));
    for row in &best.rows {
        table.push(row.iter().map(Field::to_text).collect());
    }
    table.render()
}

pub(super) fn execution(groups: &[ModeRows]) -> String {
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
