//! The tables of strands, variants and bins.

use serde::Serialize;

use super::{CellColumns, Whole, of_kind};
use crate::results::quality::number;
use crate::results::{BinningAgreement, CellKind, Evaluation, Record};

/// Strands read by a mode; the fields are defined in [`ReverseComplement`](crate::results::ReverseComplement).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields are the columns")]
pub struct ReverseComplementRow {
    pub quantization_mode: String,
    pub strand_difference: Option<f64>,
    pub strand_difference_low: Option<f64>,
    pub strand_difference_high: Option<f64>,
    pub reference_strand_difference: Option<f64>,
    pub difference_rmse: Option<f64>,
    pub difference_rmse_low: Option<f64>,
    pub difference_rmse_high: Option<f64>,
    pub strand_spearman: Option<f64>,
    pub reference_strand_spearman: Option<f64>,
    pub strand_cosine: Option<f64>,
    pub reference_strand_cosine: Option<f64>,
    pub windows: Option<u64>,
    pub non_finite: Option<u64>,
}

/// Agreement on variants; the fields are defined in [`Variants`](crate::results::Variants).
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

/// A variant; the fields are defined in [`VariantScore`](crate::results::VariantScore).
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

/// A fragment; the fields are defined in [`BinningPoint`](crate::results::BinningPoint).
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

pub(super) fn reverse_complement_row(record: &Record) -> ReverseComplementRow {
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
        strand_difference_low: strands.strand_difference_interval.map(|interval| interval.low),
        strand_difference_high: strands.strand_difference_interval.map(|interval| interval.high),
        reference_strand_difference: strands.reference_strand_difference,
        difference_rmse: strands.difference_rmse,
        difference_rmse_low: strands.difference_rmse_interval.map(|interval| interval.low),
        difference_rmse_high: strands.difference_rmse_interval.map(|interval| interval.high),
        strand_spearman: strands.strand_spearman,
        reference_strand_spearman: strands.reference_strand_spearman,
        strand_cosine: strands.strand_cosine,
        reference_strand_cosine: strands.reference_strand_cosine,
        windows: Some(strands.windows.len() as u64),
        non_finite: Some(strands.non_finite),
    }
}

pub(super) fn variant_row(record: &Record) -> VariantRow {
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

pub(super) fn score_rows(records: &[Record]) -> Vec<Whole<VariantScoreRow>> {
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

pub(super) fn binning_row(record: &Record) -> BinningRow {
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

pub(super) fn point_rows(records: &[Record]) -> Vec<Whole<BinningPointRow>> {
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
