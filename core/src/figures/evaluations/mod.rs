//! Figures about tokens in detail, layers, parts, biology, and what quality costs.

mod binning;
mod biology;
mod layers;
mod pareto;
mod sensitivity;
mod tokens;

use std::path::{Path, PathBuf};

use plotters::style::RGBColor;

use super::FigureError;
use super::page::Modes;
use crate::analysis::{Inputs, ModeRows};
use crate::results::{CellKind, Record, Status, TokenQuality};

/// Names of the figures that are drawn here.
pub(crate) const FILES: [&str; 7] = [
    "kl_distribution.png",
    "kl_by_group.png",
    "layer_snr.png",
    "sensitivity.png",
    "binning.png",
    "biology.png",
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
    let variants = first_setting(&inputs.evaluation_records, CellKind::Variants);
    let strands = first_setting(&inputs.evaluation_records, CellKind::ReverseComplement);
    let pages = [
        tokens::kl_distribution(&quality, modes),
        tokens::kl_by_group(&quality, modes),
        layers::layer_snr(&layers, modes),
        sensitivity::sensitivity(&parts, modes),
        binning::binning_scatter(&binning, modes),
        biology::biology(&variants, &strands, modes),
        pareto::pareto(&quality, groups, &inputs.timed, modes),
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

/// Radius of the points of a mode: those of later modes are smaller, so that equal points lie on each other as rings.
fn nested(number: usize, count: usize, smallest: f64) -> f64 {
    smallest + 4.0 * count.saturating_sub(number + 1) as f64
}

/// Where a mode stands beside a name's place: modes stand side by side, so that their error bars can be told apart.
fn aside(number: usize, count: f64) -> f64 {
    (number as f64 - (count - 1.0) / 2.0) * 0.08
}
