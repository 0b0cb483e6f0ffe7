//! Tables about layers, parts and biology. A cell that failed is one row with its status and reason.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::csv_table::write_table;
use super::quality::number;
use super::{BinningAgreement, CellKind, Evaluation, Record, ResultsError, Status, write_atomically};

/// Name of the table of hidden states.
pub const LAYER_FILE: &str = "layer_metrics.csv";
/// Name of the table of parts quantised one at a time.
pub const SENSITIVITY_FILE: &str = "sensitivity.csv";
/// Name of the table of reverse-complement consistency.
pub const REVERSE_COMPLEMENT_FILE: &str = "reverse_complement.csv";
/// Name of the table of agreement on variants.
pub const VARIANT_FILE: &str = "variant_effects.csv";
/// Name of the table of all variants.
pub const VARIANT_SCORE_FILE: &str = "variant_scores.csv";
/// Name of the table of binning.
pub const BINNING_FILE: &str = "binning.csv";
/// Name of the table of binned fragments.
pub const BINNING_POINT_FILE: &str = "binning_points.csv";
/// Name of the file with everything about quality.
pub const QUALITY_JSON_FILE: &str = "quality.json";

/// Id of the format of [`QUALITY_JSON_FILE`].
const QUALITY_JSON_SCHEMA: &str = "qbench.quality/1";

/// The columns that end every row: what was measured, and how the cell ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns, as in the quality table")]
pub struct CellColumns {
    pub model: String,
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub condition: String,
    pub status: String,
    pub reason: String,
}

impl CellColumns {
    fn new(record: &Record) -> Self {
        let cell = &record.cell;
        Self {
            model: cell.model.clone(),
            backend: cell.backend.clone(),
            device: cell.device.clone(),
            precision: cell.precision.clone(),
            condition: cell.condition.clone(),
            status: record.status.as_str().to_owned(),
            reason: record.reason.clone(),
        }
    }
}

/// A hidden state of a mode; the fields are defined in [`HiddenStateQuality`](super::HiddenStateQuality).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct LayerRow {
    pub quantization_mode: String,
    pub layer: Option<u64>,
    pub cosine_similarity: Option<f64>,
    pub cosine_min: Option<f64>,
    pub snr_db: Option<f64>,
    pub mse: Option<f64>,
    pub kurtosis: Option<f64>,
    pub reference_kurtosis: Option<f64>,
    pub max_inf_norm: Option<f64>,
    pub reference_max_inf_norm: Option<f64>,
    pub non_finite: Option<u64>,
    pub sequences: Option<u64>,
    pub tokens: Option<u64>,
}

/// A part that was quantised alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SensitivityRow {
    /// The mode.
    pub quantization_mode: String,
    /// What was quantised.
    pub part: String,
    /// 1 hurts most, among the parts of the mode in the same setting.
    pub rank: Option<u64>,
    /// Mean KL(reference ‖ mode) a token, nats.
    pub token_kl_mean: Option<f64>,
    /// Lower end of its 95 % interval.
    pub token_kl_mean_low: Option<f64>,
    /// Upper end.
    pub token_kl_mean_high: Option<f64>,
    /// Its share of the sum over the parts.
    pub share: Option<f64>,
    /// Share of positions with the same most likely token.
    pub same_top1: Option<f64>,
    /// Perplexity.
    pub perplexity: Option<f64>,
    /// Weights that were quantised.
    pub weights: Option<u64>,
}

/// Strands read by a mode; the fields are defined in [`ReverseComplement`](super::ReverseComplement).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct ReverseComplementRow {
    pub quantization_mode: String,
    pub strand_difference: Option<f64>,
    pub reference_strand_difference: Option<f64>,
    pub difference_rmse: Option<f64>,
    pub strand_spearman: Option<f64>,
    pub reference_strand_spearman: Option<f64>,
    pub strand_cosine: Option<f64>,
    pub reference_strand_cosine: Option<f64>,
    pub windows: Option<u64>,
    pub non_finite: Option<u64>,
}

/// Agreement on variants; the fields are defined in [`Variants`](super::Variants).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct VariantRow {
    pub quantization_mode: String,
    pub spearman: Option<f64>,
    pub spearman_low: Option<f64>,
    pub spearman_high: Option<f64>,
    pub top_decile_overlap: Option<f64>,
    pub same_sign: Option<f64>,
    pub rmse: Option<f64>,
    pub reference_std: Option<f64>,
    pub variants: Option<u64>,
    pub positions: Option<u64>,
    pub window_bases: Option<u64>,
    pub non_finite: Option<u64>,
}

/// A variant; the fields are defined in [`VariantScore`](super::VariantScore).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct VariantScoreRow {
    pub quantization_mode: String,
    pub genome_id: String,
    pub fragment_id: String,
    pub position: Option<u64>,
    pub reference_base: Option<char>,
    pub alternative_base: Option<char>,
    pub score: Option<f64>,
    pub reference_score: Option<f64>,
}

/// Binning by a mode, or by the reference; the fields are defined in [`BinningAgreement`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct BinningRow {
    pub quantization_mode: String,
    pub ari: Option<f64>,
    pub reference_ari: Option<f64>,
    pub ari_with_reference: Option<f64>,
    pub v_measure: Option<f64>,
    pub reference_v_measure: Option<f64>,
    pub homogeneity: Option<f64>,
    pub completeness: Option<f64>,
    pub purity: Option<f64>,
    pub reference_purity: Option<f64>,
    pub silhouette: Option<f64>,
    pub reference_silhouette: Option<f64>,
    pub nearest_neighbour: Option<f64>,
    pub reference_nearest_neighbour: Option<f64>,
    pub clusters: Option<u64>,
    pub noise: Option<f64>,
    pub genomes: Option<u64>,
    pub fragments: Option<u64>,
    pub epsilon: Option<f64>,
    pub minimum_points: Option<u64>,
    pub components: Option<u64>,
    pub non_finite: Option<u64>,
}

/// A fragment; the fields are defined in [`BinningPoint`](super::BinningPoint).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct BinningPointRow {
    pub quantization_mode: String,
    pub genome_id: String,
    pub fragment_id: String,
    pub pc1: f64,
    pub pc2: f64,
    /// Empty for noise.
    pub cluster: Option<u64>,
}

/// A row and the columns that end it.
type Whole<Row> = (Row, CellColumns);

/// The rows of the parts that were quantised alone, in the order of their rank within mode and setting.
pub fn sensitivity_rows(records: &[Record]) -> Vec<Whole<SensitivityRow>> {
    let kl = |record: &Record| Some(record.quality.as_ref()?.tokens_level.as_ref()?.kl.mean.value);
    let same = |one: &Record, other: &Record| {
        let unparted = |record: &Record| super::Cell {
            part: String::new(),
            ..record.cell.clone()
        };
        unparted(one) == unparted(other)
    };
    let sensitivity: Vec<&Record> = records
        .iter()
        .filter(|record| record.cell.kind == CellKind::Sensitivity)
        .collect();
    let mut rows: Vec<(usize, Whole<SensitivityRow>)> = Vec::new();
    for record in &sensitivity {
        let group = || sensitivity.iter().filter(|other| same(record, other));
        let own = kl(record).filter(|_| record.status == Status::Ok);
        let others = || {
            group()
                .filter(|other| other.status == Status::Ok)
                .filter_map(|other| kl(other))
        };
        let tokens = record
            .quality
            .as_ref()
            .and_then(|quality| quality.tokens_level.as_ref());
        let rank = own.map(|own| 1 + others().filter(|other| *other > own).count() as u64);
        let row = SensitivityRow {
            quantization_mode: record.cell.mode.clone(),
            part: record.cell.part.clone(),
            rank,
            token_kl_mean: number(kl(record)),
            token_kl_mean_low: tokens.and_then(|tokens| Some(tokens.kl.mean.interval?.low)),
            token_kl_mean_high: tokens.and_then(|tokens| Some(tokens.kl.mean.interval?.high)),
            share: number(own.map(|own| own / others().sum::<f64>())),
            same_top1: number(tokens.map(|tokens| tokens.same_top1.value)),
            perplexity: number(tokens.map(|tokens| tokens.perplexity.value)),
            weights: quantised_weights(record),
        };
        let first = sensitivity
            .iter()
            .position(|other| same(record, other))
            .unwrap_or_default();
        rows.push((first, (row, CellColumns::new(record))));
    }
    rows.sort_by_key(|(first, (row, _))| (*first, row.rank.unwrap_or(u64::MAX)));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Weights that are not stored densely.
fn quantised_weights(record: &Record) -> Option<u64> {
    let quantised = record
        .execution
        .iter()
        .filter(|execution| !execution.layout.starts_with("qbench.dense"));
    (!record.execution.is_empty()).then(|| quantised.map(|execution| execution.weights as u64).sum())
}

/// Writes the tables for which there are cells, and all records about quality as one JSON file, and returns the paths.
///
/// # Errors
/// [`ResultsError::Io`] when the directory cannot be written.
pub fn write_evaluation_tables(directory: &Path, records: &[Record]) -> Result<Vec<PathBuf>, ResultsError> {
    let mut files = Vec::new();
    write(directory, LAYER_FILE, &layer_rows(records), &mut files)?;
    write(
        directory,
        SENSITIVITY_FILE,
        &sensitivity_rows(records),
        &mut files,
    )?;
    let strands = one_each(records, CellKind::ReverseComplement, reverse_complement_row);
    write(directory, REVERSE_COMPLEMENT_FILE, &strands, &mut files)?;
    let variants = one_each(records, CellKind::Variants, variant_row);
    write(directory, VARIANT_FILE, &variants, &mut files)?;
    write(directory, VARIANT_SCORE_FILE, &score_rows(records), &mut files)?;
    let binning = one_each(records, CellKind::Binning, binning_row);
    write(directory, BINNING_FILE, &binning, &mut files)?;
    write(directory, BINNING_POINT_FILE, &point_rows(records), &mut files)?;
    let quality: Vec<&Record> = records
        .iter()
        .filter(|record| record.cell.kind != CellKind::Performance)
        .collect();
    if !quality.is_empty() {
        let path = directory.join(QUALITY_JSON_FILE);
        let document = json!({ "schema": QUALITY_JSON_SCHEMA, "cells": quality });
        write_atomically(&path, |file| {
            serde_json::to_writer(&mut *file, &document)?;
            file.write_all(b"\n")
        })?;
        files.push(path);
    }
    Ok(files)
}

fn write<Row: Serialize + Default>(
    directory: &Path,
    name: &str,
    rows: &[Row],
    files: &mut Vec<PathBuf>,
) -> Result<(), ResultsError> {
    if !rows.is_empty() {
        let path = directory.join(name);
        write_table(&path, rows)?;
        files.push(path);
    }
    Ok(())
}

fn of_kind(records: &[Record], kind: CellKind) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |record| record.cell.kind == kind)
}

fn one_each<Row>(records: &[Record], kind: CellKind, row: impl Fn(&Record) -> Row) -> Vec<Whole<Row>> {
    of_kind(records, kind)
        .map(|record| (row(record), CellColumns::new(record)))
        .collect()
}

fn layer_rows(records: &[Record]) -> Vec<Whole<LayerRow>> {
    let mut rows = Vec::new();
    for record in of_kind(records, CellKind::Layers) {
        let quantization_mode = record.cell.mode.clone();
        let Some(Evaluation::Layers(layers)) = &record.evaluation else {
            let row = LayerRow {
                quantization_mode,
                ..LayerRow::default()
            };
            rows.push((row, CellColumns::new(record)));
            continue;
        };
        rows.extend(layers.hidden_states.iter().map(|state| {
            let row = LayerRow {
                quantization_mode: quantization_mode.clone(),
                layer: Some(state.index as u64),
                cosine_similarity: state.cosine_mean,
                cosine_min: state.cosine_min,
                snr_db: number(Some(state.snr_db)),
                mse: number(Some(state.mse)),
                kurtosis: number(Some(state.kurtosis)),
                reference_kurtosis: number(Some(state.reference_kurtosis)),
                max_inf_norm: number(Some(state.max_inf_norm)),
                reference_max_inf_norm: number(Some(state.reference_max_inf_norm)),
                non_finite: Some(state.non_finite),
                sequences: Some(layers.sequences),
                tokens: Some(layers.tokens),
            };
            (row, CellColumns::new(record))
        }));
    }
    rows
}

fn reverse_complement_row(record: &Record) -> ReverseComplementRow {
    let quantization_mode = record.cell.mode.clone();
    let Some(Evaluation::ReverseComplement(strands)) = &record.evaluation else {
        return ReverseComplementRow {
            quantization_mode,
            ..ReverseComplementRow::default()
        };
    };
    ReverseComplementRow {
        quantization_mode,
        strand_difference: strands.strand_difference,
        reference_strand_difference: strands.reference_strand_difference,
        difference_rmse: strands.difference_rmse,
        strand_spearman: strands.strand_spearman,
        reference_strand_spearman: strands.reference_strand_spearman,
        strand_cosine: strands.strand_cosine,
        reference_strand_cosine: strands.reference_strand_cosine,
        windows: Some(strands.windows.len() as u64),
        non_finite: Some(strands.non_finite),
    }
}

fn variant_row(record: &Record) -> VariantRow {
    let quantization_mode = record.cell.mode.clone();
    let Some(Evaluation::Variants(variants)) = &record.evaluation else {
        return VariantRow {
            quantization_mode,
            ..VariantRow::default()
        };
    };
    VariantRow {
        quantization_mode,
        spearman: variants.spearman,
        spearman_low: variants.spearman_interval.map(|[low, _]| low),
        spearman_high: variants.spearman_interval.map(|[_, high]| high),
        top_decile_overlap: variants.top_decile_overlap,
        same_sign: variants.same_sign,
        rmse: variants.rmse,
        reference_std: variants.reference_std,
        variants: Some(variants.scores.len() as u64),
        positions: Some(variants.positions),
        window_bases: Some(variants.window_bases),
        non_finite: Some(variants.non_finite),
    }
}

fn score_rows(records: &[Record]) -> Vec<Whole<VariantScoreRow>> {
    let mut rows = Vec::new();
    for record in of_kind(records, CellKind::Variants) {
        let Some(Evaluation::Variants(variants)) = &record.evaluation else {
            continue;
        };
        rows.extend(variants.scores.iter().map(|score| {
            let row = VariantScoreRow {
                quantization_mode: record.cell.mode.clone(),
                genome_id: score.genome_id.clone(),
                fragment_id: score.fragment_id.clone(),
                position: Some(score.position),
                reference_base: Some(score.reference_base),
                alternative_base: Some(score.alternative_base),
                score: number(Some(score.score)),
                reference_score: number(Some(score.reference_score)),
            };
            (row, CellColumns::new(record))
        }));
    }
    rows
}

fn binning_row(record: &Record) -> BinningRow {
    let quantization_mode = record.cell.mode.clone();
    let Some(Evaluation::Binning(binning)) = &record.evaluation else {
        return BinningRow {
            quantization_mode,
            ..BinningRow::default()
        };
    };
    let BinningAgreement {
        clusters,
        noise,
        ari,
        v_measure,
        homogeneity,
        completeness,
        purity,
        silhouette,
        nearest_neighbour,
    } = binning.agreement;
    let reference = &binning.reference_agreement;
    BinningRow {
        quantization_mode,
        ari,
        reference_ari: reference.ari,
        ari_with_reference: binning.ari_with_reference,
        v_measure,
        reference_v_measure: reference.v_measure,
        homogeneity,
        completeness,
        purity,
        reference_purity: reference.purity,
        silhouette,
        reference_silhouette: reference.silhouette,
        nearest_neighbour,
        reference_nearest_neighbour: reference.nearest_neighbour,
        clusters: Some(clusters),
        noise: Some(noise),
        genomes: Some(binning.genomes),
        fragments: Some(binning.points.len() as u64),
        epsilon: Some(binning.epsilon),
        minimum_points: Some(binning.minimum_points),
        components: Some(binning.components),
        non_finite: Some(binning.non_finite),
    }
}

fn point_rows(records: &[Record]) -> Vec<Whole<BinningPointRow>> {
    let mut rows = Vec::new();
    for record in of_kind(records, CellKind::Binning) {
        let Some(Evaluation::Binning(binning)) = &record.evaluation else {
            continue;
        };
        rows.extend(binning.points.iter().map(|point| {
            let row = BinningPointRow {
                quantization_mode: record.cell.mode.clone(),
                genome_id: point.genome_id.clone(),
                fragment_id: point.fragment_id.clone(),
                pc1: point.coordinates[0],
                pc2: point.coordinates[1],
                cluster: point.cluster,
            };
            (row, CellColumns::new(record))
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_records::quality_record;

    fn part(name: &str, kl: f64) -> Record {
        let mut record = quality_record("4bit_nf4");
        record.cell.kind = CellKind::Sensitivity;
        name.clone_into(&mut record.cell.part);
        if let Some(tokens) = record
            .quality
            .as_mut()
            .and_then(|quality| quality.tokens_level.as_mut())
        {
            tokens.kl.mean.value = kl;
        }
        record
    }

    #[test]
    fn parts_are_ranked_by_what_they_do_to_predictions() {
        let mut failed = part("layers.3", 0.0);
        failed.status = Status::Crashed;
        failed.quality = None;
        let records = [
            part("layers.0", 0.25),
            part("layers.1", 0.5),
            failed,
            part("layers.2", 0.25),
        ];
        let rows = sensitivity_rows(&records);
        let found: Vec<(&str, Option<u64>, Option<f64>)> = rows
            .iter()
            .map(|(row, _)| (row.part.as_str(), row.rank, row.share))
            .collect();
        assert_eq!(
            found,
            [
                ("layers.1", Some(1), Some(0.5)),
                ("layers.0", Some(2), Some(0.25)),
                ("layers.2", Some(2), Some(0.25)),
                ("layers.3", None, None)
            ]
        );
        assert_eq!(rows[3].1.status, "crashed");
    }

    #[test]
    fn failed_cells_are_rows_and_nothing_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(write_evaluation_tables(directory.path(), &[]).unwrap().len(), 0);
        let mut record = quality_record("8bit");
        record.quality = None;
        record.status = Status::Error;
        "no room".clone_into(&mut record.reason);
        for kind in [
            CellKind::Layers,
            CellKind::ReverseComplement,
            CellKind::Variants,
            CellKind::Binning,
        ] {
            record.cell.kind = kind;
            let files = write_evaluation_tables(directory.path(), std::slice::from_ref(&record)).unwrap();
            assert_eq!(files.len(), 2, "a table and the JSON file");
            let text = std::fs::read_to_string(&files[0]).unwrap();
            assert!(text.lines().nth(1).unwrap().starts_with("8bit,,"), "{text}");
            assert!(text.trim_end().ends_with("error,no room"), "{text}");
        }
    }
}
