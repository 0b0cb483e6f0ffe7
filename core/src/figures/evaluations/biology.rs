//! What quantising does to the scores of variants and to the reading of both strands.

use plotters::style::RGBColor;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;

use super::super::chart::{Chart, ChartPage, Places, Point, Series};
use super::super::page::Modes;
use super::super::scale::ScaleKind;
use super::{in_order, subtitle};
use crate::analysis::STANDARD;
use crate::results::{Evaluation, Record, ReverseComplement};
use crate::statistics::{RESAMPLES, cluster_intervals};

/// Seed of the resamples of an interval.
const SEED: u64 = 42;

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
            "Spearman's correlation with the reference",
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
            "Change of the strands' difference (bits per base)",
            ScaleKind::FromZero,
            strands,
            |evaluation| match evaluation {
                Evaluation::ReverseComplement(strands) => {
                    Some((strands.difference_rmse?, rmse_interval(strands)))
                }
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
        notes: "Left: ranks of the log-likelihood ratios of single-nucleotide variants; 1 is the reference's order; the axis \
                does not start at 0. Right: root mean square over windows of how far the difference between a strand and \
                its reverse complement is from the reference's. Bars: 95 % intervals by bootstrap, left over positions, \
                right over genomes."
            .to_owned(),
    }
}

/// The interval of [`ReverseComplement::difference_rmse`], genomes drawn with their windows.
fn rmse_interval(strands: &ReverseComplement) -> Option<(f64, f64)> {
    let mut genomes: Vec<(&str, f64, f64)> = Vec::new();
    for window in &strands.windows {
        let difference = |[forward, reverse]: [f64; 2]| forward - reverse;
        let squared = (difference(window.bits_per_base) - difference(window.reference_bits_per_base)).powi(2);
        if !squared.is_finite() {
            continue;
        }
        match genomes.iter_mut().find(|(id, ..)| *id == window.genome_id) {
            Some((_, sum, count)) => {
                *sum += squared;
                *count += 1.0;
            }
            None => genomes.push((&window.genome_id, squared, 1.0)),
        }
    }
    let mut generator = Generator::seed_from_u64(SEED);
    let [interval] = cluster_intervals(genomes.len(), RESAMPLES, &mut generator, |drawn| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (&(_, squares, windows), &times) in genomes.iter().zip(drawn) {
            sum += f64::from(times) * squares;
            count += f64::from(times) * windows;
        }
        [(sum / count).sqrt()]
    });
    interval.map(|interval| (interval.low, interval.high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::StrandPair;

    fn window(genome: &str, off: f64) -> StrandPair {
        StrandPair {
            genome_id: genome.to_owned(),
            bits_per_base: [1.9 + off, 1.8],
            reference_bits_per_base: [1.9, 1.8],
            ..StrandPair::default()
        }
    }

    #[test]
    fn genomes_that_agree_have_a_narrow_interval() {
        let of = |offs: [f64; 4]| {
            let genomes = ["a", "a", "b", "c"];
            let windows = genomes.iter().zip(offs).map(|(genome, off)| window(genome, off));
            rmse_interval(&ReverseComplement {
                windows: windows.collect(),
                ..ReverseComplement::default()
            })
        };
        let (low, high) = of([0.25, -0.25, 0.25, -0.25]).unwrap();
        assert!(
            (low - 0.25).abs() < 1e-12 && (high - 0.25).abs() < 1e-12,
            "{low} {high}"
        );
        let (low, high) = of([0.25, -0.25, 0.5, 0.125]).unwrap();
        assert!(low < 0.2 && high > 0.4, "{low} {high}");
        assert_eq!(rmse_interval(&ReverseComplement::default()), None);
    }
}
