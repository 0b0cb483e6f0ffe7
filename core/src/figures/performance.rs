//! The figures of speed, memory and energy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::page::{Modes, Page};
use super::panel::{Mark, Panel};
use super::scale::ScaleKind;
use super::tradeoff;
use super::{FigureError, describe};
use crate::analysis::{Inputs, ModeRows, TimedCell, only_cell, performance_mixture};
use crate::measure::energy::DISAGREEMENT;
use crate::results::BenchmarkRow;
use crate::statistics::{Interval, Summary};

/// Significant digits of the labels at bars.
const DIGITS: usize = 3;

type Column = fn(&BenchmarkRow) -> Option<f64>;

/// All energy, and that above idle power.
const ENERGY_PER_MEGABASE: [Column; 2] = [
    |row| row.J_per_Mbp.filter(|_| readings_agree(row)),
    |row| row.J_per_Mbp_net.filter(|_| readings_agree(row)),
];

/// Draws the figures whose columns were measured.
pub(super) fn draw(
    inputs: &Inputs,
    groups: &[ModeRows],
    modes: &Modes,
    directory: &Path,
) -> Result<Vec<PathBuf>, FigureError> {
    let modes = modes.only(|mode| groups.iter().any(|group| group.mode == mode));
    let ok: Vec<&BenchmarkRow> = inputs.rows.iter().filter(|row| row.is_ok()).collect();
    let subtitle = subtitle(&ok);
    let timed = timed(&inputs.timed, groups);
    let spread = notes(&ok, groups, "Bars", "Error bars");
    let energy_notes = format!("{spread}{}", left_out(groups));
    let page = |title: &str, mut panels: Vec<Panel>, variants: &[&str], notes: &str| {
        panels.retain(|panel| !panel.marks.is_empty());
        Page {
            title: title.to_owned(),
            subtitle: subtitle.clone(),
            columns: panels.len().clamp(1, 2),
            panels,
            variants: variants.iter().map(|&name| name.to_owned()).collect(),
            notes: notes.to_owned(),
            modes: &modes,
        }
    };
    let time_notes = timed.as_ref().map_or_else(
        || spread.clone(),
        |cells| format!("Bars: {}", notes_on_times(cells)),
    );
    let throughput = time_panel(
        "Throughput (tokens/s)",
        groups,
        timed.as_deref(),
        TimedCell::tokens_per_second,
        |row| row.tokens_per_s,
    );
    let latency = time_panel(
        "Time per batch (ms)",
        groups,
        timed.as_deref(),
        milliseconds,
        |row| row.E2EL_ms,
    );
    let pages = [
        (
            "throughput_comparison.png",
            page("Throughput by mode", vec![throughput], &[], &time_notes),
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
                &spread,
            ),
        ),
        (
            "latency_comparison.png",
            page("Latency by mode", vec![latency], &[], &time_notes),
        ),
        (
            "energy_efficiency.png",
            page("Energy by mode", power_panels(groups), &[], &energy_notes),
        ),
        (
            "energy_per_megabase.png",
            page(
                "Energy per million bases by mode",
                vec![bars("", "Energy (J/Mbp)", groups, &ENERGY_PER_MEGABASE)],
                &["all energy", "above idle power"],
                &energy_notes,
            ),
        ),
    ];
    let mut files = Vec::new();
    for (name, page) in pages {
        if !page.panels.is_empty() {
            let path = directory.join(name);
            page.save(&path)?;
            files.push(path);
        }
    }
    files.extend(draw_tradeoff(
        &ok,
        groups,
        timed.as_deref(),
        &subtitle,
        &modes,
        directory,
    )?);
    Ok(files)
}

fn power_panels(groups: &[ModeRows]) -> Vec<Panel> {
    vec![
        bars(
            "Efficiency",
            "Tokens per joule",
            groups,
            &[|row| row.tokens_per_watt.filter(|_| readings_agree(row))],
        ),
        bars(
            "Power",
            "Mean power (W)",
            groups,
            &[|row| row.avg_power_W.filter(|_| readings_agree(row))],
        ),
    ]
}

/// Whether the energy counter and the integral of power tell the same, where a row has both.
fn readings_agree(row: &BenchmarkRow) -> bool {
    let both = row.energy_counter_J.zip(row.energy_integrated_J);
    both.is_none_or(|(counter, integral)| (integral - counter).abs() <= DISAGREEMENT * counter)
}

/// What the figures of energy leave out; nothing where readings agree.
fn left_out(groups: &[ModeRows]) -> String {
    let doubtful: Vec<String> = groups
        .iter()
        .filter_map(|group| {
            let rows = group.rows.iter().filter(|row| !readings_agree(row)).count();
            (rows > 0).then(|| format!("{rows} of {} rows of {}", group.rows.len(), group.mode))
        })
        .collect();
    if doubtful.is_empty() {
        return String::new();
    }
    format!(
        " Left out are rows whose energy counter and integrated power differ by more than {} %: {}.",
        DISAGREEMENT * 100.0,
        doubtful.join(", ")
    )
}

/// Throughput against memory; `None` where one of them was not measured.
fn draw_tradeoff(
    rows: &[&BenchmarkRow],
    groups: &[ModeRows],
    timed: Option<&[&TimedCell]>,
    subtitle: &str,
    modes: &Modes,
    directory: &Path,
) -> Result<Option<PathBuf>, FigureError> {
    let points = tradeoff::points(groups, timed);
    if points.is_empty() {
        return Ok(None);
    }
    let what = match timed {
        Some(cells) => format!(
            "Large points: {} Across: mean peak memory, its 95 % interval by Student's t.",
            notes_on_times(cells)
        ),
        None => notes(rows, groups, "Large points", "Lines"),
    };
    let notes = format!(
        "{what} Small points: single rows. Better is up and left; the dashed line joins the modes that no other mode \
         beats in both."
    );
    let path = directory.join("performance_memory_tradeoff.png");
    tradeoff::save(
        &path,
        ("Throughput against memory", subtitle, &notes),
        &points,
        modes,
    )?;
    Ok(Some(path))
}

/// The cell of every mode, where each was timed in one setting.
pub(super) fn timed<'a>(cells: &'a [TimedCell], groups: &[ModeRows]) -> Option<Vec<&'a TimedCell>> {
    groups.iter().map(|group| only_cell(cells, group.mode)).collect()
}

fn milliseconds(cell: &TimedCell) -> (f64, Option<Interval>) {
    let ends = cell.interval.map(|interval| Interval {
        low: interval.low * 1e3,
        high: interval.high * 1e3,
    });
    (cell.typical * 1e3, ends)
}

/// Bars of typical times or rates with their intervals, where they are known for every mode; else of the column's means.
fn time_panel(
    axis: &str,
    groups: &[ModeRows],
    timed: Option<&[&TimedCell]>,
    value: fn(&TimedCell) -> (f64, Option<Interval>),
    column: Column,
) -> Panel {
    let Some(cells) = timed else {
        return bars("", axis, groups, &[column]);
    };
    let marks = cells.iter().enumerate().map(|(mode, cell)| {
        let (value, interval) = value(cell);
        Mark {
            mode,
            variant: 0,
            value,
            range: interval.map(|interval| (interval.low, interval.high)),
            extreme: None,
        }
    });
    panel("", axis, 1, marks.collect())
}

/// What typical times and their intervals are, and how far they can be trusted.
fn notes_on_times(cells: &[&TimedCell]) -> String {
    let (fewest, most) = cells.iter().fold((usize::MAX, 0), |(fewest, most), cell| {
        (fewest.min(cell.blocks), most.max(cell.blocks))
    });
    let repeats = match (fewest, most) {
        (1, 1) => "one repeat".to_owned(),
        (fewest, most) if fewest == most => format!("{most} repeats"),
        (fewest, most) => format!("{fewest} to {most} repeats"),
    };
    let (converged, all) = cells.iter().fold((0, 0), |(converged, all), cell| {
        (converged + cell.converged, all + cell.blocks)
    });
    let doubt = if converged == all {
        String::new()
    } else {
        format!(
            " Not converged within the time budget: {} of {all} repeats.",
            all - converged
        )
    };
    format!(
        "median over all batches of {repeats}, with its 95 % interval where there are samples enough.{doubt}"
    )
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
    panel(title, axis, columns.len(), marks.collect())
}

fn panel(title: &str, axis: &str, variants: usize, marks: Vec<Mark>) -> Panel {
    Panel {
        title: title.to_owned(),
        axis: axis.to_owned(),
        kind: ScaleKind::FromZero,
        digits: DIGITS,
        variants,
        marks,
        reference: None,
        limit: f64::INFINITY,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(counter: f64, integrated: f64) -> BenchmarkRow {
        BenchmarkRow {
            J_per_Mbp: Some(2.0),
            energy_counter_J: Some(counter),
            energy_integrated_J: Some(integrated),
            ..BenchmarkRow::default()
        }
    }

    /// A counter of 10 J and an integral of 12.9 J are 29 % apart; one that agrees, or is alone, is drawn.
    #[test]
    fn energy_that_disagrees_is_not_drawn_and_said() {
        let (apart, near) = (row(10.0, 12.9), row(10.0, 10.2));
        let alone = BenchmarkRow {
            energy_integrated_J: None,
            ..row(10.0, 0.0)
        };
        let groups = [
            ("8bit", vec![&apart, &apart]),
            ("standard", vec![&near, &apart, &alone]),
        ]
        .map(|(mode, rows)| ModeRows { mode, rows });
        let panel = bars(
            "",
            "",
            &groups,
            &[|row| row.J_per_Mbp.filter(|_| readings_agree(row))],
        );
        let drawn: Vec<usize> = panel.marks.iter().map(|mark| mark.mode).collect();
        assert_eq!(drawn, [1]);
        assert!(left_out(&groups).ends_with("more than 5 %: 2 of 2 rows of 8bit, 1 of 3 rows of standard."));
        assert_eq!(left_out(&[]), "");
    }
}
