//! The performance tables, under the names and with the definitions of the original system.
//!
//! Rows are grouped by `quantization` alone, over models, conditions, batch sizes and repeats. Statistics: mean, std
//! (ddof = 1, empty for one row), min, max; only the mean where every mode has one row. Percentages and ratios compare
//! the unrounded means with that of `standard`, and are empty without it.

use super::modes::{ModeRows, STANDARD};
use super::table::{Field, Table};
use crate::results::BenchmarkRow;
use crate::statistics::Summary;

/// A column of the benchmark table that is summarised.
#[derive(Clone, Copy)]
struct Metric {
    name: &'static str,
    value: fn(&BenchmarkRow) -> Option<f64>,
}

const TOKENS_PER_S: Metric = Metric {
    name: "tokens_per_s",
    value: |row| row.tokens_per_s,
};
const SEQS_PER_S: Metric = Metric {
    name: "seqs_per_s",
    value: |row| row.seqs_per_s,
};
const STATIC_MEMORY: Metric = Metric {
    name: "static_vram_GB",
    value: |row| row.static_vram_GB,
};
const PEAK_MEMORY: Metric = Metric {
    name: "peak_vram_GB",
    value: |row| row.peak_vram_GB,
};
const LATENCY: Metric = Metric {
    name: "E2EL_ms",
    value: |row| row.E2EL_ms,
};
const POWER: Metric = Metric {
    name: "avg_power_W",
    value: |row| row.avg_power_W,
};
const TOKENS_PER_WATT: Metric = Metric {
    name: "tokens_per_watt",
    value: |row| row.tokens_per_watt,
};
const ENERGY: Metric = Metric {
    name: "energy_kWh",
    value: |row| row.energy_kWh,
};

const JOULES_PER_TOKEN: Metric = Metric {
    name: "J_per_token",
    value: |row| row.J_per_token,
};
const JOULES_PER_MEGABASE: Metric = Metric {
    name: "J_per_Mbp",
    value: |row| row.J_per_Mbp,
};
const NET_JOULES_PER_TOKEN: Metric = Metric {
    name: "J_per_token_net",
    value: |row| row.J_per_token_net,
};
const NET_JOULES_PER_MEGABASE: Metric = Metric {
    name: "J_per_Mbp_net",
    value: |row| row.J_per_Mbp_net,
};
const IDLE_BEFORE: Metric = Metric {
    name: "idle_before_W",
    value: |row| row.idle_before_W,
};
const IDLE_AFTER: Metric = Metric {
    name: "idle_after_W",
    value: |row| row.idle_after_W,
};
const SM_CLOCK: Metric = Metric {
    name: "sm_clock_MHz",
    value: |row| row.sm_clock_MHz,
};
const TEMPERATURE: Metric = Metric {
    name: "temperature_C",
    value: |row| row.temperature_C,
};

/// `quant_summary.csv`: the main metrics by mode, those that were measured at all.
pub fn quant_summary(modes: &[ModeRows]) -> Table {
    let metrics = [
        SEQS_PER_S,
        TOKENS_PER_S,
        STATIC_MEMORY,
        PEAK_MEMORY,
        LATENCY,
        POWER,
        TOKENS_PER_WATT,
    ];
    summary_table("quant_summary.csv", modes, &metrics)
}

/// `memory_analysis.csv`: static and peak memory, and by how many per cent a mode needs less than `standard`:
/// −(mode − standard) / standard · 100. `None` when no memory was measured.
pub fn memory_analysis(modes: &[ModeRows]) -> Option<Table> {
    let mut table = summary_table("memory_analysis.csv", modes, &[STATIC_MEMORY, PEAK_MEMORY]);
    for (metric, column) in [
        (STATIC_MEMORY, "static_reduction_pct"),
        (PEAK_MEMORY, "peak_reduction_pct"),
    ] {
        if measured(modes, metric) {
            add_comparison(&mut table, column, modes, metric, |mode, standard| {
                -(mode - standard) / standard * 100.0
            });
        }
    }
    has_numbers(table)
}

/// `throughput_comparison.csv`: tokens per second, its ratio to that of `standard`, and (1 − ratio) · 100.
pub fn throughput_comparison(modes: &[ModeRows]) -> Table {
    let mut table = summary_table("throughput_comparison.csv", modes, &[TOKENS_PER_S]);
    add_comparison(
        &mut table,
        "ratio_vs_standard",
        modes,
        TOKENS_PER_S,
        |mode, standard| mode / standard,
    );
    add_comparison(
        &mut table,
        "slowdown_pct",
        modes,
        TOKENS_PER_S,
        |mode, standard| (1.0 - mode / standard) * 100.0,
    );
    table
}

/// `energy_analysis.csv`, of the rows with a power reading; `None` when there are none. The original's three columns come
/// first.
pub fn energy_analysis(modes: &[ModeRows]) -> Option<Table> {
    let with_power: Vec<ModeRows> = modes
        .iter()
        .map(|group| {
            let rows = group
                .rows
                .iter()
                .copied()
                .filter(|row| row.avg_power_W.is_some())
                .collect();
            ModeRows {
                mode: group.mode,
                rows,
            }
        })
        .filter(|group| !group.rows.is_empty())
        .collect();
    has_numbers(summary_table(
        "energy_analysis.csv",
        &with_power,
        &[
            TOKENS_PER_WATT,
            POWER,
            ENERGY,
            JOULES_PER_TOKEN,
            JOULES_PER_MEGABASE,
            NET_JOULES_PER_TOKEN,
            NET_JOULES_PER_MEGABASE,
            IDLE_BEFORE,
            IDLE_AFTER,
            SM_CLOCK,
            TEMPERATURE,
        ],
    ))
}

/// `best_performers.csv`: the single best row of each kind; of equal ones the first.
pub fn best_performers(rows: &[BenchmarkRow]) -> Table {
    let categories = [
        ("highest_throughput", TOKENS_PER_S, "tokens/s", true),
        ("lowest_peak_memory", PEAK_MEMORY, "GB", false),
        ("lowest_static_memory", STATIC_MEMORY, "GB", false),
        ("lowest_latency", LATENCY, "ms", false),
        ("most_energy_efficient", TOKENS_PER_WATT, "tokens/J", true),
    ];
    let mut table = Table {
        file_name: "best_performers.csv",
        header: ["category", "quantization", "batch_size", "value", "unit"]
            .map(str::to_owned)
            .to_vec(),
        rows: Vec::new(),
    };
    for (category, metric, unit, highest) in categories {
        let candidates = rows
            .iter()
            .filter(|row| row.is_ok())
            .filter_map(|row| Some((row, (metric.value)(row)?)));
        let best = candidates.reduce(|best, next| {
            let better = if highest { next.1 > best.1 } else { next.1 < best.1 };
            if better { next } else { best }
        });
        if let Some((row, value)) = best {
            table.rows.push(vec![
                Field::Text(category.to_owned()),
                Field::Text(row.quantization.clone()),
                Field::Number(row.batch_size.map(|size| size as f64)),
                Field::Number(Some(value)),
                Field::Text(unit.to_owned()),
            ]);
        }
    }
    table
}

fn summary_table(file_name: &'static str, modes: &[ModeRows], metrics: &[Metric]) -> Table {
    let single = modes.iter().all(|group| group.rows.len() == 1);
    let statistics: &[&str] = if single {
        &["mean"]
    } else {
        &["mean", "std", "min", "max"]
    };
    let metrics: Vec<Metric> = metrics
        .iter()
        .copied()
        .filter(|&metric| measured(modes, metric))
        .collect();
    let mut header = vec!["quantization".to_owned()];
    for metric in &metrics {
        header.extend(
            statistics
                .iter()
                .map(|statistic| format!("{}_{statistic}", metric.name)),
        );
    }
    let row = |group: &ModeRows| {
        let mut row = vec![Field::Text(group.mode.to_owned())];
        for metric in &metrics {
            let summary = Summary::of(&group.values(metric.value));
            row.extend(statistics.iter().map(|&statistic| {
                Field::Number(summary.and_then(|summary| match statistic {
                    "mean" => Some(summary.mean),
                    "std" => summary.std,
                    "min" => Some(summary.min),
                    _ => Some(summary.max),
                }))
            }));
        }
        row
    };
    Table {
        file_name,
        header,
        rows: modes.iter().map(row).collect(),
    }
}

fn add_comparison(
    table: &mut Table,
    column: &str,
    modes: &[ModeRows],
    metric: Metric,
    compare: impl Fn(f64, f64) -> f64,
) {
    let mean = |group: &ModeRows| Summary::of(&group.values(metric.value)).map(|summary| summary.mean);
    let standard = modes.iter().find(|group| group.mode == STANDARD).and_then(mean);
    table.header.push(column.to_owned());
    for (row, group) in table.rows.iter_mut().zip(modes) {
        let value = mean(group).zip(standard.filter(|&standard| standard != 0.0));
        row.push(Field::Number(
            value.map(|(mode, standard)| compare(mode, standard)),
        ));
    }
}

fn measured(modes: &[ModeRows], metric: Metric) -> bool {
    modes.iter().any(|group| !group.values(metric.value).is_empty())
}

fn has_numbers(table: Table) -> Option<Table> {
    (table.header.len() > 1).then_some(table)
}
