//! Fragments by the first components of their embeddings.

use std::collections::BTreeSet;

use plotters::style::RGBColor;

use super::super::chart::{Chart, ChartPage, Places, Point, Series};
use super::super::page::Modes;
use super::super::palette::categories;
use super::super::scale::ScaleKind;
use super::{in_order, subtitle};
use crate::results::{Evaluation, Record};

pub(super) fn binning_scatter(records: &[&Record], modes: &Modes) -> ChartPage {
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
