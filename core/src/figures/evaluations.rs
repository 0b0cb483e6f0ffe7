//! Figures about tokens in detail, layers, parts, binning, and what quality costs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use plotters::style::RGBColor;

use super::FigureError;
use super::chart::{Chart, ChartPage, NEUTRAL, Places, Point, Series};
use super::page::Modes;
use super::palette::categories;
use super::scale::ScaleKind;
use crate::analysis::{Inputs, ModeRows, STANDARD};
use crate::results::{
    CellKind, Distribution, Evaluation, Record, Status, TokenGroup, TokenQuality, sensitivity_rows,
};
use crate::statistics::Summary;

/// Names of the figures that are drawn here.
pub(crate) const FILES: [&str; 6] = [
    "kl_distribution.png",
    "kl_by_group.png",
    "layer_snr.png",
    "sensitivity.png",
    "binning.png",
    "pareto.png",
];

/// Draws each figure of [`FILES`] for which there are numbers, for the first setting (model, device, precision and
/// condition) that has any.
pub(super) fn draw(
    inputs: &Inputs,
    groups: &[ModeRows<'_>],
    modes: &Modes,
    directory: &Path,
) -> Result<Vec<PathBuf>, FigureError> {
    let quality = first_setting(&inputs.quality_records, CellKind::Quality);
    let layers = first_setting(&inputs.evaluation_records, CellKind::Layers);
    let binning = first_setting(&inputs.evaluation_records, CellKind::Binning);
    let parts = first_setting(&inputs.evaluation_records, CellKind::Sensitivity);
    let pages = [
        kl_distribution(&quality, modes),
        kl_by_group(&quality, modes),
        layer_snr(&layers, modes),
        sensitivity(&parts, modes),
        binning_scatter(&binning, modes),
        pareto(&quality, groups, modes),
    ];
    let mut files = Vec::new();
    for (page, name) in pages.into_iter().zip(FILES) {
        if !page.is_empty() {
            let path = directory.join(name);
            page.save(&path)?;
            files.push(path);
        }
    }
    Ok(files)
}

/// The good records of a kind in the setting of the first, whose values would not belong into one figure otherwise.
fn first_setting(records: &[Record], kind: CellKind) -> Vec<&Record> {
    let setting = |record: &Record| {
        let cell = &record.cell;
        [
            &cell.model,
            &cell.backend,
            &cell.device,
            &cell.precision,
            &cell.condition,
        ]
        .map(Clone::clone)
    };
    let good: Vec<&Record> = records
        .iter()
        .filter(|record| record.cell.kind == kind && record.status == Status::Ok)
        .collect();
    let first = good.first().map(|record| setting(record));
    good.into_iter()
        .filter(|record| Some(setting(record)) == first)
        .collect()
}

fn subtitle(records: &[&Record]) -> String {
    records.first().map_or_else(String::new, |record| {
        let cell = &record.cell;
        let mut parts = vec![
            cell.model.as_str(),
            &cell.backend,
            &cell.device,
            &cell.precision,
            &cell.condition,
        ];
        parts.dedup();
        parts.join(" · ")
    })
}

fn tokens(record: &Record) -> Option<&TokenQuality> {
    record.quality.as_ref()?.tokens_level.as_ref()
}

/// The records in the order and with the colours of the modes, those of modes without a colour left out.
fn in_order<'a>(records: &[&'a Record], modes: &'a Modes) -> Vec<(&'a str, RGBColor, &'a Record)> {
    let all = modes.names.iter().zip(&modes.colours);
    all.filter_map(|(&name, &colour)| {
        let record = records.iter().find(|record| record.cell.mode == name)?;
        Some((name, colour, *record))
    })
    .collect()
}

fn legend(series: &[(&str, RGBColor)]) -> Vec<(String, RGBColor)> {
    series
        .iter()
        .map(|(name, colour)| ((*name).to_owned(), *colour))
        .collect()
}

fn positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn kl_distribution(records: &[&Record], modes: &Modes) -> ChartPage {
    let mut shown = Vec::new();
    let mut series = Vec::new();
    for (name, colour, record) in in_order(records, modes) {
        let Some(tokens) = tokens(record) else { continue };
        let points: Vec<Point> = tokens
            .kl
            .quantiles()
            .into_iter()
            .zip(Distribution::PROBABILITIES)
            .filter(|(kl, _)| positive(*kl))
            .map(|(kl, share)| Point {
                x: kl,
                y: share * 100.0,
                ..Point::default()
            })
            .collect();
        if !points.is_empty() {
            shown.push((name, colour));
            series.push(Series {
                colour,
                points,
                line: true,
                radius: 9.0,
            });
        }
    }
    ChartPage {
        title: "Distribution of the divergence over tokens".to_owned(),
        subtitle: subtitle(records),
        charts: vec![Chart {
            title: String::new(),
            x_axis: "KL per token (nats)".to_owned(),
            y_axis: "Tokens with less (%)".to_owned(),
            places: Places::Numbers(ScaleKind::Logarithmic),
            y_kind: ScaleKind::FromZero,
            series,
        }],
        columns: 1,
        legend: legend(&shown),
        notes: "KL(reference ‖ mode) of the next-token distribution. Points: smallest, 0.1, 1, 5, 10, 25, 50, 75, 90, 95, \
                99, 99.9 % and largest. Values of 0 have no place on a logarithmic axis."
            .to_owned(),
    }
}

/// Where a mode stands beside a name's place: modes stand side by side, so that their error bars can be told apart.
fn aside(number: usize, count: f64) -> f64 {
    (number as f64 - (count - 1.0) / 2.0) * 0.08
}

type Groups = fn(&TokenQuality) -> &[TokenGroup];

fn kl_by_group(records: &[&Record], modes: &Modes) -> ChartPage {
    let ordered = in_order(records, modes);
    let chart = |title: &str, axis: &str, groups: Groups| {
        let mut labels: Vec<String> = Vec::new();
        for group in ordered
            .iter()
            .filter_map(|(_, _, record)| tokens(record))
            .flat_map(groups)
        {
            if group.positions > 0 && !labels.contains(&group.label) {
                labels.push(group.label.clone());
            }
        }
        let low = |label: &String| {
            let mut all = ordered
                .iter()
                .filter_map(|(_, _, record)| tokens(record))
                .flat_map(groups);
            all.find(|group| group.label == *label)
                .and_then(|group| group.low)
                .unwrap_or(0.0)
        };
        labels.sort_by(|one, other| low(one).total_cmp(&low(other)));
        let count = ordered.len() as f64;
        let series = ordered
            .iter()
            .enumerate()
            .filter_map(|(place, (_, colour, record))| {
                let points = groups(tokens(record)?)
                    .iter()
                    .filter(|group| positive(group.kl.value))
                    .filter_map(|group| {
                        let x = labels.iter().position(|label| *label == group.label)? as f64;
                        Some(Point {
                            x: x + aside(place, count),
                            y: group.kl.value,
                            y_range: group
                                .kl
                                .interval
                                .map(|interval| (interval.low, interval.high))
                                .filter(|(low, _)| positive(*low)),
                            ..Point::default()
                        })
                    });
                let points: Vec<Point> = points.collect();
                (!points.is_empty()).then_some(Series {
                    colour: *colour,
                    points,
                    line: true,
                    radius: 11.0,
                })
            });
        Chart {
            title: title.to_owned(),
            x_axis: axis.to_owned(),
            y_axis: "Mean KL per token (nats)".to_owned(),
            series: series.collect(),
            places: Places::Names(labels),
            y_kind: ScaleKind::Logarithmic,
        }
    };
    let shown: Vec<(&str, RGBColor)> = ordered
        .iter()
        .filter(|(_, _, record)| tokens(record).is_some_and(|tokens| positive(tokens.kl.mean.value)))
        .map(|(name, colour, _)| (*name, *colour))
        .collect();
    ChartPage {
        title: "Where the predictions change".to_owned(),
        subtitle: subtitle(records),
        charts: vec![
            chart(
                "By the reference's confidence",
                "Probability of its most likely token",
                |tokens| &tokens.by_confidence,
            ),
            chart("By composition", "Share of G and C in the sequence", |tokens| &tokens.by_gc),
        ],
        columns: 2,
        legend: legend(&shown),
        notes: "Mean of KL(reference ‖ mode); bars: 95 % intervals by bootstrap over genomes, where longer than the point. Axes of divergence do not \
                start at 0."
            .to_owned(),
    }
}

fn layer_snr(records: &[&Record], modes: &Modes) -> ChartPage {
    let (mut shown, mut snr, mut distance) = (Vec::new(), Vec::new(), Vec::new());
    let mut states = 0;
    for (name, colour, record) in in_order(records, modes) {
        let Some(Evaluation::Layers(layers)) = &record.evaluation else {
            continue;
        };
        states = states.max(layers.hidden_states.len());
        let points = |value: &dyn Fn(usize) -> Option<f64>| -> Vec<Point> {
            let values = (0..layers.hidden_states.len()).filter_map(|index| Some((index, value(index)?)));
            values
                .map(|(index, y)| Point {
                    x: index as f64,
                    y,
                    ..Point::default()
                })
                .collect()
        };
        let series = |points| Series {
            colour,
            points,
            line: true,
            radius: 11.0,
        };
        let of_snr = points(&|index| Some(layers.hidden_states[index].snr_db).filter(|snr| snr.is_finite()));
        if of_snr.is_empty() {
            continue;
        }
        let of_cosine = points(&|index| {
            layers.hidden_states[index]
                .cosine_mean
                .map(|cosine| 1.0 - cosine)
                .filter(|distance| positive(*distance))
        });
        shown.push((name, colour));
        snr.push(series(of_snr));
        distance.push(series(of_cosine));
    }
    let names: Vec<String> = (0..states)
        .map(|index| match index {
            0 => "emb".to_owned(),
            _ if index + 1 == states => "norm".to_owned(),
            _ => index.to_string(),
        })
        .collect();
    let chart = |title: &str, axis: &str, kind, series| Chart {
        title: title.to_owned(),
        x_axis: "Hidden state".to_owned(),
        y_axis: axis.to_owned(),
        places: Places::Names(names.clone()),
        y_kind: kind,
        series,
    };
    ChartPage {
        title: "What quantising does to the hidden states".to_owned(),
        subtitle: subtitle(records),
        charts: vec![
            chart("Signal-to-noise ratio", "SNR (dB)", ScaleKind::FromZero, snr),
            chart("Cosine distance", "1 − cosine", ScaleKind::Logarithmic, distance),
        ],
        columns: 2,
        legend: legend(&shown),
        notes: "Token by token against the f32 reference. emb: the embedding; then the output of each layer; norm: the \
                last after the final norm. States equal to the reference's have no place on these axes."
            .to_owned(),
    }
}

fn sensitivity(records: &[&Record], modes: &Modes) -> ChartPage {
    let owned: Vec<Record> = records.iter().map(|record| (*record).clone()).collect();
    let rows = sensitivity_rows(&owned);
    let worst = |part: &str| {
        let rows = rows.iter().filter(|(row, _)| row.part == part);
        rows.filter_map(|(row, _)| row.token_kl_mean).fold(0.0, f64::max)
    };
    let parts: BTreeSet<&str> = rows.iter().map(|(row, _)| row.part.as_str()).collect();
    let mut parts: Vec<&str> = parts.into_iter().collect();
    parts.sort_by(|one, other| worst(other).total_cmp(&worst(one)));
    let mut shown = Vec::new();
    let mut series = Vec::new();
    let count = modes.names.len() as f64;
    for (number, (&name, &colour)) in modes.names.iter().zip(&modes.colours).enumerate() {
        let points: Vec<Point> = parts
            .iter()
            .enumerate()
            .filter_map(|(place, part)| {
                let mut rows = rows.iter().map(|(row, _)| row);
                let row = rows.find(|row| row.part == *part && row.quantization_mode == name)?;
                Some(Point {
                    x: place as f64 + aside(number, count),
                    y: row.token_kl_mean.filter(|kl| positive(*kl))?,
                    y_range: row
                        .token_kl_mean_low
                        .filter(|low| positive(*low))
                        .zip(row.token_kl_mean_high),
                    ..Point::default()
                })
            })
            .collect();
        if !points.is_empty() {
            shown.push((name, colour));
            series.push(Series {
                colour,
                points,
                line: false,
                radius: 15.0,
            });
        }
    }
    ChartPage {
        title: "Which weights hurt most when they alone are quantised".to_owned(),
        subtitle: subtitle(records),
        charts: vec![Chart {
            title: String::new(),
            x_axis: "Quantised part, worst first".to_owned(),
            y_axis: "Mean KL per token (nats)".to_owned(),
            places: Places::Names(parts.into_iter().map(str::to_owned).collect()),
            y_kind: ScaleKind::Logarithmic,
            series,
        }],
        columns: 1,
        legend: legend(&shown),
        notes: "KL(reference ‖ model with this part quantised and the rest as in `standard`); bars: 95 % intervals by \
                bootstrap over genomes. The axis of divergence does not start at 0."
            .to_owned(),
    }
}

fn binning_scatter(records: &[&Record], modes: &Modes) -> ChartPage {
    let genomes: BTreeSet<&str> = records
        .iter()
        .filter_map(|record| match &record.evaluation {
            Some(Evaluation::Binning(binning)) => Some(binning.points.iter()),
            _ => None,
        })
        .flatten()
        .map(|point| point.genome_id.as_str())
        .collect();
    let genomes: Vec<(&str, RGBColor)> = genomes.iter().copied().zip(categories()).collect();
    let charts = in_order(records, modes)
        .into_iter()
        .filter_map(|(name, _, record)| {
            let Some(Evaluation::Binning(binning)) = &record.evaluation else {
                return None;
            };
            let series = genomes.iter().map(|(genome, colour)| {
                let points = binning.points.iter().filter(|point| point.genome_id == *genome);
                Series {
                    colour: *colour,
                    points: points
                        .map(|point| Point {
                            x: point.coordinates[0],
                            y: point.coordinates[1],
                            hollow: point.cluster.is_none(),
                            ..Point::default()
                        })
                        .collect(),
                    line: false,
                    radius: 13.0,
                }
            });
            let score = binning
                .agreement
                .ari
                .map_or_else(String::new, |ari| format!(" (ARI {ari:.3})"));
            let share = |axis: usize| {
                format!(
                    "Component {} ({:.0} % of variance)",
                    axis + 1,
                    binning.explained_variance[axis] * 100.0
                )
            };
            Some(Chart {
                title: format!("{name}{score}"),
                x_axis: share(0),
                y_axis: share(1),
                places: Places::Numbers(ScaleKind::Zoomed),
                y_kind: ScaleKind::Zoomed,
                series: series.collect(),
            })
        });
    let charts: Vec<Chart> = charts.collect();
    let shorten = |genome: &str| genome.split("__").next().unwrap_or(genome).replace('_', " ");
    ChartPage {
        title: "Fragments by their embeddings".to_owned(),
        subtitle: subtitle(records),
        columns: if charts.len() > 2 { 3 } else { 2 },
        charts,
        legend: genomes
            .iter()
            .map(|(genome, colour)| (shorten(genome), *colour))
            .collect(),
        notes: "The first two principal components of each mode's mean-pooled embeddings, turned to point the way of the \
                reference's. A point is a fragment, a ring one that DBSCAN calls noise. ARI: adjusted Rand index of \
                clusters and genomes."
            .to_owned(),
    }
}

fn pareto(records: &[&Record], groups: &[ModeRows<'_>], modes: &Modes) -> ChartPage {
    type Column = fn(&crate::results::BenchmarkRow) -> Option<f64>;
    let ordered = in_order(records, modes);
    let mut shown: Vec<(&str, RGBColor)> = Vec::new();
    let mut chart = |title: &str, axis: &str, column: Column, more_is_better: bool| {
        let mut points: Vec<(RGBColor, Point)> = Vec::new();
        for (name, colour, record) in &ordered {
            let Some(kl) = tokens(record)
                .map(|tokens| tokens.kl.mean)
                .filter(|kl| positive(kl.value))
            else {
                continue;
            };
            let group = groups.iter().find(|group| group.mode == *name);
            let Some(summary) = group.and_then(|group| Summary::of(&group.values(column))) else {
                continue;
            };
            if !shown.contains(&(*name, *colour)) {
                shown.push((*name, *colour));
            }
            let interval = kl.interval.map(|interval| (interval.low, interval.high));
            points.push((
                *colour,
                Point {
                    x: summary.mean,
                    y: kl.value,
                    x_range: summary.std.map(|_| (summary.min, summary.max)),
                    y_range: interval.filter(|(low, _)| positive(*low)),
                    hollow: false,
                },
            ));
        }
        let mut series: Vec<Series> = Vec::new();
        let front = front(points.iter().map(|(_, point)| point), more_is_better);
        if front.len() > 1 {
            series.push(Series {
                colour: NEUTRAL,
                points: front,
                line: true,
                radius: 0.0,
            });
        }
        series.extend(points.into_iter().map(|(colour, point)| Series {
            colour,
            points: vec![point],
            line: false,
            radius: 18.0,
        }));
        Chart {
            title: title.to_owned(),
            x_axis: axis.to_owned(),
            y_axis: "Mean KL per token (nats)".to_owned(),
            places: Places::Numbers(ScaleKind::FromZero),
            y_kind: ScaleKind::Logarithmic,
            series,
        }
    };
    let charts = vec![
        chart(
            "Quality and speed",
            "Throughput (tokens/s)",
            |row| row.tokens_per_s,
            true,
        ),
        chart(
            "Quality and memory",
            "Peak memory (GB)",
            |row| row.peak_vram_GB,
            false,
        ),
    ];
    ChartPage {
        title: "What quality costs".to_owned(),
        subtitle: subtitle(records),
        charts,
        columns: 2,
        legend: legend(&shown),
        notes: format!(
            "Vertical bars: 95 % intervals of the mean KL by bootstrap over genomes; horizontal bars: smallest and largest \
             repeat. Line: modes that no other beats in both. `{STANDARD}` in f32 is the reference: its KL of 0 has no place \
             on a logarithmic axis, which does not start at 0."
        ),
    }
}

/// The points that no other beats in both coordinates (less KL, and more or less of the other), by x.
fn front<'a>(points: impl Iterator<Item = &'a Point>, more_is_better: bool) -> Vec<Point> {
    let points: Vec<&Point> = points.collect();
    let better = |one: f64, other: f64| if more_is_better { one > other } else { one < other };
    let beaten = |point: &Point| {
        points.iter().any(|other| {
            (better(other.x, point.x) && other.y <= point.y) || (other.x == point.x && other.y < point.y)
        })
    };
    let mut front: Vec<Point> = points
        .iter()
        .filter(|point| !beaten(point))
        .map(|point| Point {
            x: point.x,
            y: point.y,
            ..Point::default()
        })
        .collect();
    front.sort_by(|one, other| one.x.total_cmp(&other.x));
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [(1.0, 0.1), (2.0, 0.2), (1.5, 0.3), (3.0, 0.5), (3.0, 0.4)].map(|(x, y)| Point {
            x,
            y,
            ..Point::default()
        });
        let found = |more_is_better| -> Vec<f64> {
            let front = front(points.iter(), more_is_better);
            front.iter().map(|point| point.y).collect()
        };
        assert_eq!(found(true), [0.1, 0.2, 0.4]);
        assert_eq!(found(false), [0.1]);
    }
}
