//! The numbers of cells about layers and biology. What they mean is defined in [`crate::quality`] and
//! [`crate::biology`].

use serde::{Deserialize, Serialize};

use super::DistributionStatistics;
use crate::statistics::Interval;

/// The numbers of such a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "evaluation")]
pub enum Evaluation {
    /// Every hidden state against the reference's.
    Layers(Layers),
    /// Both strands of each window.
    ReverseComplement(ReverseComplement),
    /// All substitutions at some positions.
    Variants(Variants),
    /// Fragments sorted by genome.
    Binning(Binning),
}

/// Hidden states of a mode against the reference's, over all tokens of some sequences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Layers {
    /// Sequences that were compared.
    pub sequences: u64,
    /// Tokens that were compared.
    pub tokens: u64,
    /// One entry a hidden state, the embedding first.
    pub hidden_states: Vec<HiddenStateQuality>,
    /// Two entries a hidden state, the reference's values and the mode's.
    pub distributions: Vec<DistributionStatistics>,
}

/// One hidden state against the reference's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HiddenStateQuality {
    /// Its place: 0 is the embedding, the last is after the final norm.
    pub index: usize,
    /// Mean over tokens of the cosine of a token's two vectors; `None` where a vector is zero throughout.
    pub cosine_mean: Option<f64>,
    /// Smallest cosine of a token.
    pub cosine_min: Option<f64>,
    /// Mean squared difference over all values.
    #[serde(with = "super::number")]
    pub mse: f64,
    /// 10 · log10(Σ reference² / Σ difference²), in decibels; infinite where all values are equal.
    #[serde(with = "super::number")]
    pub snr_db: f64,
    /// Fisher's kurtosis of the mode's values, biased.
    #[serde(with = "super::number")]
    pub kurtosis: f64,
    /// The same of the reference's values.
    #[serde(with = "super::number")]
    pub reference_kurtosis: f64,
    /// Largest magnitude of a value of the mode.
    #[serde(with = "super::number")]
    pub max_inf_norm: f64,
    /// The same of the reference.
    #[serde(with = "super::number")]
    pub reference_max_inf_norm: f64,
    /// Values of both sides that are not finite; their tokens take part in nothing.
    pub non_finite: u64,
}

/// What a model says of both strands of windows, and what the reference says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReverseComplement {
    /// Mean over windows of |bits per base of the strand − of its reverse complement|.
    pub strand_difference: Option<f64>,
    /// The same of the reference.
    pub reference_strand_difference: Option<f64>,
    /// Spearman's correlation over windows of the bits per base of both strands.
    pub strand_spearman: Option<f64>,
    /// The same of the reference.
    pub reference_strand_spearman: Option<f64>,
    /// Mean cosine of the embeddings of both strands.
    pub strand_cosine: Option<f64>,
    /// The same of the reference.
    pub reference_strand_cosine: Option<f64>,
    /// Root mean square over windows of (mode's − reference's) signed difference between strands, in bits per base.
    pub difference_rmse: Option<f64>,
    /// 95 % interval of `strand_difference`, from a bootstrap over genomes; over windows where all are of one genome.
    #[serde(default)]
    pub strand_difference_interval: Option<Interval>,
    /// The same of `difference_rmse`.
    #[serde(default)]
    pub difference_rmse_interval: Option<Interval>,
    /// Windows with a log-likelihood that is not finite, on either side; they take part in nothing.
    pub non_finite: u64,
    /// Every window.
    pub windows: Vec<StrandPair>,
}

/// One window, read in both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StrandPair {
    /// Genome of the window.
    pub genome_id: String,
    /// Fragment of the window, which starts at its first base.
    pub fragment_id: String,
    /// Bases of the window.
    pub bases: u64,
    /// Bits per base of the strand as it stands in the file, then of its reverse complement.
    #[serde(with = "super::number::pair")]
    pub bits_per_base: [f64; 2],
    /// The same of the reference.
    #[serde(with = "super::number::pair")]
    pub reference_bits_per_base: [f64; 2],
    /// Cosine of the embeddings of both strands.
    pub cosine: Option<f64>,
}

/// Effects of single-nucleotide variants, a mode's against the reference's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Variants {
    /// Bases of a window at most.
    pub window_bases: u64,
    /// Positions at which all three substitutions were made.
    pub positions: u64,
    /// Spearman's correlation of the scores.
    pub spearman: Option<f64>,
    /// 95 % interval of it, from a bootstrap over positions.
    pub spearman_interval: Option<[f64; 2]>,
    /// Share of the reference's lowest tenth that is in the mode's lowest tenth.
    pub top_decile_overlap: Option<f64>,
    /// Share of scores with the reference's sign.
    pub same_sign: Option<f64>,
    /// Root mean square of the difference of the scores, in nats.
    pub rmse: Option<f64>,
    /// Standard deviation of the reference's scores, in nats, to judge the difference by.
    pub reference_std: Option<f64>,
    /// Scores that are not finite, on either side; they take part in nothing.
    pub non_finite: u64,
    /// Every variant.
    pub scores: Vec<VariantScore>,
}

/// One substitution and its score: ln p(window with it) − ln p(window as it is), in nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VariantScore {
    /// Genome.
    pub genome_id: String,
    /// Fragment of it.
    pub fragment_id: String,
    /// Position in the fragment, from 1.
    pub position: u64,
    /// The base that is there.
    pub reference_base: char,
    /// The base that takes its place.
    pub alternative_base: char,
    /// The mode's score.
    #[serde(with = "super::number")]
    pub score: f64,
    /// The reference's score.
    #[serde(with = "super::number")]
    pub reference_score: f64,
}

/// Fragments clustered by their embeddings and compared with the genomes they come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Binning {
    /// Different genomes among the fragments.
    pub genomes: u64,
    /// Principal components that distances are taken in.
    pub components: u64,
    /// Shares of the variance along the first two components.
    pub explained_variance: [f64; 2],
    /// Radius of DBSCAN, chosen with the reference.
    pub epsilon: f64,
    /// Points, itself included, that make a point a core point of DBSCAN.
    pub minimum_points: u64,
    /// How well the mode's clusters are the genomes.
    pub agreement: BinningAgreement,
    /// How well the reference's are.
    pub reference_agreement: BinningAgreement,
    /// Adjusted Rand index of the mode's clusters and the reference's.
    pub ari_with_reference: Option<f64>,
    /// Fragments whose embedding is not finite; they take part in nothing.
    pub non_finite: u64,
    /// Every fragment that took part.
    pub points: Vec<BinningPoint>,
}

/// How well clusters are genomes. What DBSCAN calls noise is a cluster of its own here, as in scikit-learn's scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BinningAgreement {
    /// Clusters, noise not counted.
    pub clusters: u64,
    /// Share of fragments that are noise.
    pub noise: f64,
    /// Adjusted Rand index.
    pub ari: Option<f64>,
    /// V-measure: harmonic mean of homogeneity and completeness.
    pub v_measure: Option<f64>,
    /// Homogeneity: each cluster holds one genome.
    pub homogeneity: Option<f64>,
    /// Completeness: each genome lies in one cluster.
    pub completeness: Option<f64>,
    /// Share of fragments of the commonest genome of their cluster.
    pub purity: Option<f64>,
    /// Mean silhouette of the genomes, whatever the clusters.
    pub silhouette: Option<f64>,
    /// Share of fragments whose nearest neighbour is of their genome.
    pub nearest_neighbour: Option<f64>,
}

/// A fragment in the plane of the first two principal components.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BinningPoint {
    /// Its genome.
    pub genome_id: String,
    /// Its name.
    pub fragment_id: String,
    /// Coordinates along the first two components.
    pub coordinates: [f64; 2],
    /// Its cluster, from 0; `None` is noise.
    pub cluster: Option<u64>,
}
