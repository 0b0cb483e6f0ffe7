//! The divergence of tokens: its distribution, and where it is large.

use plotters::style::RGBColor;

use super::super::chart::{Chart, ChartPage, Places, Point, Series};
use super::super::page::Modes;
use super::super::scale::ScaleKind;
use super::{aside, in_order, legend, nested, positive, subtitle, tokens};
use crate::results::{Distribution, Record, TokenGroup, TokenQuality};

pub(super) fn kl_distribution(records: &[&Record], modes: &Modes) -> ChartPage {
    let mut shown = Vec::new();
    let mut series = Vec::new();
    let modes_in_order = in_order(records, modes);
    for (number, &(name, colour, record)) in modes_in_order.iter().enumerate() {
        let Some(tokens) = tokens(record) else { continue };
        let points: Vec<Point> = tokens
            .kl
            .quantiles()
            .into_iter()
            .zip(Distribution::PROBABILITIES)
            // The smallest is some rounding, orders of magnitude below all others.
            .skip(1)
            .filter(|(kl, _)| positive(kl.value))
            .map(|(kl, share)| Point {
                x: kl.value,
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
                radius: nested(number, modes_in_order.len(), 8.0),
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
            y_kind: ScaleKind::Zoomed,
            series,
        }],
        columns: 1,
        legend: legend(&shown),
        notes: "KL(reference ‖ mode) of the next-token distribution. Points: 0.1, 1, 5, 10, 25, 50, 75, 90, 95, \
                99, 99.9 % and largest. Values of 0 have no place on a logarithmic axis. Points of later modes are smaller, so that equal ones show."
            .to_owned(),
    }
}

type Groups = fn(&TokenQuality) -> &[TokenGroup];

pub(super) fn kl_by_group(records: &[&Record], modes: &Modes) -> ChartPage {
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
