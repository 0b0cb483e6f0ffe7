//! Parts quantised one at a time, worst first.

use std::collections::BTreeSet;

use super::super::chart::{Chart, ChartPage, Places, Point, Series};
use super::super::page::Modes;
use super::super::scale::ScaleKind;
use super::{aside, legend, positive, subtitle};
use crate::results::{Record, sensitivity_rows};

pub(super) fn sensitivity(records: &[&Record], modes: &Modes) -> ChartPage {
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
