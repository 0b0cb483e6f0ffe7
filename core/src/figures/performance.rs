//! The figures of speed, memory and energy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::page::{Modes, Page};
use super::panel::{Mark, Panel};
use super::scale::ScaleKind;
use super::tradeoff::{self, TradeoffPoint};
use super::{FigureError, describe};
use crate::analysis::{ModeRows, performance_mixture};
use crate::results::BenchmarkRow;
use crate::statistics::Summary;

/// Significant digits of the labels at bars.
const DIGITS: usize = 3;

type Column = fn(&BenchmarkRow) -> Option<f64>;

/// Draws the figures whose columns were measured.
pub(super) fn draw(
    rows: &[BenchmarkRow],
    groups: &[ModeRows],
    modes: &Modes,
    directory: &Path,
) -> Result<Vec<PathBuf>, FigureError> {
    let modes = modes.only(|mode| groups.iter().any(|group| group.mode == mode));
    let ok: Vec<&BenchmarkRow> = rows.iter().filter(|row| row.is_ok()).collect();
    let subtitle = subtitle(&ok);
    let page = |title: &str, panels: Vec<Panel>, variants: &[&str]| {
        let panels: Vec<Panel> = panels
            .into_iter()
            .filter(|panel| !panel.marks.is_empty())
            .collect();
        Page {
            title: title.to_owned(),
            subtitle: subtitle.clone(),
            columns: panels.len().clamp(1, 2),
            panels,
            variants: variants.iter().map(|&name| name.to_owned()).collect(),
            notes: notes(&ok, groups, "Bars", "Error bars"),
            modes: &modes,
        }
    };
    let pages = [
        (
            "throughput_comparison.png",
            page(
                "Throughput by mode",
                vec![bars(
                    "",
                    "Throughput (tokens/s)",
                    groups,
                    &[|row| row.tokens_per_s],
                )],
                &[],
            ),
        ),
        (
            "memory_comparison.png",
            page(
                "Memory by mode",
                vec![bars(
                    "",
                    "Memory (GB)",
                    groups,
                    &[|row| row.static_vram_GB, |row| row.peak_vram_GB],
                )],
                &["model loaded", "peak while running"],
            ),
        ),
        (
            "latency_comparison.png",
            page(
                "Latency by mode",
                vec![bars("", "Time per batch (ms)", groups, &[|row| row.E2EL_ms])],
                &[],
            ),
        ),
        (
            "energy_efficiency.png",
            page(
                "Energy by mode",
                vec![
                    bars(
                        "Efficiency",
                        "Tokens per joule",
                        groups,
                        &[|row| row.tokens_per_watt],
                    ),
                    bars("Power", "Mean power (W)", groups, &[|row| row.avg_power_W]),
                ],
                &[],
            ),
        ),
    ];
    let per_base = page(
        "Energy per million bases by mode",
        vec![bars(
            "",
            "Energy (J/Mbp)",
            groups,
            &[|row| row.J_per_Mbp, |row| row.J_per_Mbp_net],
        )],
        &["all energy", "above idle power"],
    );
    let pages = pages.into_iter().chain([("energy_per_megabase.png", per_base)]);
    let mut files = Vec::new();
    for (name, page) in pages {
        if !page.panels.is_empty() {
            let path = directory.join(name);
            page.save(&path)?;
            files.push(path);
        }
    }
    let points = tradeoff_points(groups);
    if !points.is_empty() {
        let path = directory.join("performance_memory_tradeoff.png");
        let notes = notes(&ok, groups, "Large points", "Lines");
        let notes = format!("{notes} Small points: single rows. Better is up and left.");
        tradeoff::save(
            &path,
            ("Throughput against memory", &subtitle, &notes),
            &points,
            &modes,
        )?;
        files.push(path);
    }
    Ok(files)
}

fn bars(title: &str, axis: &str, groups: &[ModeRows], columns: &[Column]) -> Panel {
    let marks = groups.iter().enumerate().flat_map(|(mode, group)| {
        columns.iter().enumerate().filter_map(move |(variant, column)| {
            let Summary { mean, std, .. } = Summary::of(&group.values(column))?;
            let range = std.map(|std| (mean - std, mean + std));
            Some(Mark {
                mode,
                variant,
                value: mean,
                range,
                extreme: None,
            })
        })
    });
    Panel {
        title: title.to_owned(),
        axis: axis.to_owned(),
        kind: ScaleKind::FromZero,
        digits: DIGITS,
        variants: columns.len(),
        marks: marks.collect(),
        reference: None,
        limit: f64::INFINITY,
    }
}

fn tradeoff_points(groups: &[ModeRows]) -> Vec<TradeoffPoint> {
    let point = |(mode, group): (usize, &ModeRows)| {
        let rows: Vec<(f64, f64)> = group
            .rows
            .iter()
            .filter_map(|row| row.peak_vram_GB.zip(row.tokens_per_s))
            .collect();
        let (memory, speed): (Vec<f64>, Vec<f64>) = rows.iter().copied().unzip();
        Some(TradeoffPoint {
            mode,
            memory: Summary::of(&memory)?,
            speed: Summary::of(&speed)?,
            rows,
        })
    };
    groups.iter().enumerate().filter_map(point).collect()
}

fn subtitle(rows: &[&BenchmarkRow]) -> String {
    let mut parts = describe(rows.iter().map(|row| {
        // The device's name says more than its id.
        let names = [row.device_name.as_str(), &row.gpu_name, &row.device];
        let device = names
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        row.setting()
            .map(|(column, value)| (column, if column == "device" { device } else { value }))
    }));
    let batch_sizes: BTreeSet<u64> = rows.iter().filter_map(|row| row.batch_size).collect();
    if !batch_sizes.is_empty() {
        let sizes: Vec<String> = batch_sizes.iter().map(u64::to_string).collect();
        parts.push(format!("batch {}", sizes.join(", ")));
    }
    parts.join(" · ")
}

/// What the marks of means (`Bars`) and of their spread (`Error bars`) are.
fn notes(rows: &[&BenchmarkRow], groups: &[ModeRows], what: &str, spread: &str) -> String {
    let counts: BTreeSet<usize> = groups.iter().map(|group| group.rows.len()).collect();
    let (Some(&fewest), Some(&most)) = (counts.first(), counts.last()) else {
        return String::new();
    };
    if most == 1 {
        return "One row a mode, hence no spread.".to_owned();
    }
    let number = if fewest == most {
        most.to_string()
    } else {
        format!("{fewest} to {most}")
    };
    let repeats: BTreeSet<u64> = rows.iter().filter_map(|row| row.repeat).collect();
    let repeats = (repeats.len() > 1).then(|| format!("{} repeats", repeats.len()));
    let mixture = performance_mixture(rows.iter().copied());
    let differences = if mixture.is_some() {
        ", hence of the settings too, not of repeats alone"
    } else {
        ""
    };
    let over: Vec<String> = mixture.into_iter().chain(repeats).collect();
    let over = if over.is_empty() {
        String::new()
    } else {
        format!(": {}", over.join(", "))
    };
    format!(
        "{what}: mean over {number} rows of each mode{over}. {spread}: ± 1 standard deviation of these rows{differences}."
    )
}
