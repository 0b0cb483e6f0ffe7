//! What quantising does to the scores of variants and to the reading of both strands.

use plotters::style::RGBColor;

use super::super::chart::{Chart, ChartPage, Places, Point, Series};
use super::super::page::Modes;
use super::super::scale::ScaleKind;
use super::{in_order, subtitle};
use crate::analysis::STANDARD;
use crate::results::{Evaluation, Record};

/// A mode's value with the ends of its interval.
type Value = (f64, Option<(f64, f64)>);

/// Agreement on the ranks of variants, and how far the difference between strands is off.
pub(super) fn biology(variants: &[&Record], strands: &[&Record], modes: &Modes) -> ChartPage {
    let mut shown: Vec<(String, RGBColor)> = Vec::new();
    let mut chart =
        |title: &str, axis: &str, y_kind, records: &[&Record], value: fn(&Evaluation) -> Option<Value>| {
            let values: Vec<(&str, RGBColor, Value)> = in_order(records, modes)
                .into_iter()
                .filter(|(name, _, record)| *name != STANDARD || record.cell.precision != "float32")
                .filter_map(|(name, colour, record)| {
                    Some((name, colour, value(record.evaluation.as_ref()?)?))
                })
                .collect();
            let series = values
                .iter()
                .enumerate()
                .map(|(place, &(_, colour, (y, y_range)))| Series {
                    colour,
                    points: vec![Point {
                        x: place as f64,
                        y,
                        y_range,
                        ..Point::default()
                    }],
                    line: false,
                    radius: 15.0,
                });
            for (name, colour, _) in &values {
                if !shown.iter().any(|(known, _)| known == name) {
                    shown.push(((*name).to_owned(), *colour));
                }
            }
            Chart {
                title: title.to_owned(),
                x_axis: String::new(),
                y_axis: axis.to_owned(),
                series: series.collect(),
                places: Places::Names(values.iter().map(|(name, ..)| (*name).to_owned()).collect()),
                y_kind,
            }
        };
    let charts = vec![
        chart(
            "Effects of variants",
            "Spearman's correlation",
            ScaleKind::Zoomed,
            variants,
            |evaluation| match evaluation {
                Evaluation::Variants(variants) => Some((
                    variants.spearman?,
                    variants.spearman_interval.map(|[low, high]| (low, high)),
                )),
                _ => None,
            },
        ),
        chart(
            "Both strands",
            "RMS change (bits/base)",
            ScaleKind::FromZero,
            strands,
            |evaluation| match evaluation {
                Evaluation::ReverseComplement(strands) => Some((
                    strands.difference_rmse?,
                    strands
                        .difference_rmse_interval
                        .map(|interval| (interval.low, interval.high)),
                )),
                _ => None,
            },
        ),
    ];
    ChartPage {
        title: "What quantising does to biology".to_owned(),
        subtitle: subtitle(if variants.is_empty() { strands } else { variants }),
        charts: charts
            .into_iter()
            .filter(|chart| chart.series.iter().any(|series| !series.points.is_empty()))
            .collect(),
        columns: 2,
        legend: shown,
        notes: "Left: ranks of the log-likelihood ratios of single-nucleotide variants, correlated with the reference's; 1 is its order; the axis \
                does not start at 0. Right: root mean square over windows of how far the difference between a strand and \
                its reverse complement is from the reference's. Bars: 95 % intervals by bootstrap, left over positions, \
                right over genomes."
            .to_owned(),
    }
}
