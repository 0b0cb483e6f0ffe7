//! What quality costs in speed and memory.

use plotters::style::RGBColor;

use super::super::chart::{Chart, ChartPage, NEUTRAL, Places, Point, Series};
use super::super::page::Modes;
use super::super::performance::timed;
use super::super::scale::ScaleKind;
use super::super::tradeoff::{self, Place, TradeoffPoint};
use super::{in_order, legend, positive, subtitle, tokens};
use crate::analysis::{ModeRows, STANDARD, TimedCell};
use crate::results::Record;

/// Divergence against speed and memory, which are those of the figure `performance_memory_tradeoff.png`.
pub(super) fn pareto(
    records: &[&Record],
    groups: &[ModeRows<'_>],
    cells: &[TimedCell],
    modes: &Modes,
) -> ChartPage {
    let timed = timed(cells, groups);
    let places = tradeoff::points(groups, timed.as_deref());
    let across = match timed {
        Some(_) => "95 % intervals over repeats, of memory by Student's t",
        None => "± 1 standard deviation of the rows",
    };
    let ordered = in_order(records, modes);
    let mut shown: Vec<(&str, RGBColor)> = Vec::new();
    let mut chart = |title: &str, axis: &str, place: fn(&TradeoffPoint) -> Place, more_is_better: bool| {
        let mut points: Vec<(RGBColor, Point)> = Vec::new();
        for (name, colour, record) in &ordered {
            let Some(kl) = tokens(record)
                .map(|tokens| tokens.kl.mean)
                .filter(|kl| positive(kl.value))
            else {
                continue;
            };
            let Some(point) = places.iter().find(|point| groups[point.mode].mode == *name) else {
                continue;
            };
            let across = place(point);
            if !shown.contains(&(*name, *colour)) {
                shown.push((*name, *colour));
            }
            let interval = kl.interval.map(|interval| (interval.low, interval.high));
            points.push((
                *colour,
                Point {
                    x: across.value,
                    y: kl.value,
                    x_range: across.range,
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
            |point| point.speed,
            true,
        ),
        chart(
            "Quality and memory",
            "Peak memory (GB)",
            |point| point.memory,
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
            "Vertical bars: 95 % intervals of the mean KL by bootstrap over genomes; horizontal bars: {across}; \
             both where longer than the point. Line: modes that no other beats in both. `{STANDARD}` in f32 is the reference: its KL of 0 has no place \
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
