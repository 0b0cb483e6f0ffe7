//! Sorting fragments by the genome they come from, by their embeddings alone (metagenomic binning).
//!
//! A fragment's embedding is the mean of its tokens' hidden states after the final norm. Embeddings are brought down to
//! their first principal components, which DBSCAN clusters by Euclidean distance; clusters are compared with the genomes.
//! Every model is analysed for itself, as a user would do with it alone, but for DBSCAN's radius: it is the one at
//! which the reference's clusters agree best with the genomes (adjusted Rand index), and is the same for all modes.
//! The radius is thus chosen with the labels in hand: the scores say how much of what the reference *can* do a mode keeps,
//! not how well binning would work on unknown genomes.

mod agreement;
mod dbscan;
mod distances;
mod pca;

use serde::{Deserialize, Serialize};

use super::{Fragment, OtherWindows};
use crate::results::{Binning, BinningAgreement, BinningPoint};
use crate::statistics::quantile;
use agreement::Contingency;
use dbscan::dbscan;
use distances::Distances;
use pca::Pca;

/// Components that are kept at most: what separates species lies in the first few, and distances in many dimensions
/// grow alike.
const COMPONENTS: usize = 10;

/// Radii that are tried, quantiles of the distance to the neighbour that makes a core point (the k-dist graph of
/// M. Ester et al., "A density-based algorithm for discovering clusters", KDD 1996).
const RADII: usize = 50;

/// What the reference leaves for the modes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReferenceBinning {
    /// Genome and name of every fragment.
    fragments: Vec<(String, String)>,
    /// Cluster of every fragment; `None` is noise.
    clusters: Vec<Option<usize>>,
    epsilon: f64,
    minimum_points: usize,
    agreement: BinningAgreement,
    /// The first two principal axes, that those of modes point the same way.
    axes: Vec<Vec<f64>>,
}

/// Clusters the reference's embeddings, one a fragment.
pub fn reference(fragments: &[Fragment<'_>], embeddings: &[Vec<f32>]) -> ReferenceBinning {
    let fragments: Vec<(String, String)> = fragments.iter().map(identity).collect();
    let genomes: Vec<&str> = fragments.iter().map(|(genome, _)| genome.as_str()).collect();
    let minimum_points = minimum_points(&genomes);
    let pca = Pca::of(embeddings, COMPONENTS);
    let distances = Distances::between(&pca.coordinates);
    let (mut best, mut best_ari) = ((0.0, vec![None; genomes.len()]), f64::NEG_INFINITY);
    for epsilon in radii(&distances, minimum_points) {
        let clusters = dbscan(&distances, epsilon, minimum_points);
        // Of equally good radii the smallest.
        if let Some(ari) = Contingency::new(&genomes, &clusters).adjusted_rand_index()
            && ari > best_ari
        {
            best_ari = ari;
            best = (epsilon, clusters);
        }
    }
    let (epsilon, clusters) = best;
    ReferenceBinning {
        agreement: agreement(&genomes, &clusters, &distances),
        axes: pca.axes.into_iter().take(2).collect(),
        fragments,
        clusters,
        epsilon,
        minimum_points,
    }
}

/// Clusters a mode's embeddings, one a fragment, and compares the clusters with the genomes and with the reference's.
///
/// # Errors
/// The reference read other fragments.
pub fn compare(
    reference: &ReferenceBinning,
    fragments: &[Fragment<'_>],
    embeddings: &[Vec<f32>],
) -> Result<Binning, OtherWindows> {
    if !fragments
        .iter()
        .map(identity)
        .eq(reference.fragments.iter().cloned())
    {
        return Err(OtherWindows {
            what: format!(
                "{} fragments, the mode read {}",
                reference.fragments.len(),
                fragments.len()
            ),
        });
    }
    let finite: Vec<usize> = (0..embeddings.len())
        .filter(|&index| embeddings[index].iter().all(|value| value.is_finite()))
        .collect();
    let kept: Vec<Vec<f32>> = finite.iter().map(|&index| embeddings[index].clone()).collect();
    let genomes: Vec<&str> = finite.iter().map(|&index| fragments[index].genome_id).collect();
    let mut pca = Pca::of(&kept, COMPONENTS);
    pca.point_like(&reference.axes);
    let distances = Distances::between(&pca.coordinates);
    let clusters = dbscan(&distances, reference.epsilon, reference.minimum_points);
    let of_reference: Vec<Option<usize>> = finite.iter().map(|&index| reference.clusters[index]).collect();
    let coordinate = |point: usize, axis: usize| pca.coordinates[point].get(axis).copied().unwrap_or(0.0);
    let points = finite.iter().enumerate().map(|(point, &index)| BinningPoint {
        genome_id: fragments[index].genome_id.to_owned(),
        fragment_id: fragments[index].fragment_id.to_owned(),
        coordinates: [coordinate(point, 0), coordinate(point, 1)],
        cluster: clusters[point].map(|cluster| cluster as u64),
    });
    Ok(Binning {
        genomes: distinct(&genomes) as u64,
        components: pca.explained_variance.len() as u64,
        explained_variance: [0, 1].map(|axis| pca.explained_variance.get(axis).copied().unwrap_or(0.0)),
        epsilon: reference.epsilon,
        minimum_points: reference.minimum_points as u64,
        agreement: agreement(&genomes, &clusters, &distances),
        reference_agreement: reference.agreement.clone(),
        ari_with_reference: Contingency::new(&of_reference, &clusters).adjusted_rand_index(),
        non_finite: (embeddings.len() - finite.len()) as u64,
        points: points.collect(),
    })
}

fn identity(fragment: &Fragment<'_>) -> (String, String) {
    (fragment.genome_id.to_owned(), fragment.fragment_id.to_owned())
}

/// The usual five, fewer where genomes have fewer fragments: half of them (the lower middle) could not have a core
/// point otherwise. At least two, or every point would be a cluster.
fn minimum_points(genomes: &[&str]) -> usize {
    let mut sizes: Vec<usize> = counts(genomes);
    sizes.sort_unstable();
    let middle = sizes.get(sizes.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    middle.clamp(2, 5)
}

fn counts(genomes: &[&str]) -> Vec<usize> {
    let mut sorted = genomes.to_vec();
    sorted.sort_unstable();
    sorted
        .chunk_by(|one, other| one == other)
        .map(<[&str]>::len)
        .collect()
}

fn distinct(genomes: &[&str]) -> usize {
    counts(genomes).len()
}

/// Radii to try, ascending.
fn radii(distances: &Distances, minimum_points: usize) -> Vec<f64> {
    let to_core: Vec<f64> = (0..distances.len())
        .filter_map(|point| distances.nearest(point, minimum_points - 1))
        .collect();
    let mut radii: Vec<f64> = (0..RADII)
        .filter_map(|step| quantile(&to_core, step as f64 / (RADII - 1) as f64))
        .collect();
    radii.dedup();
    radii
}

fn agreement(genomes: &[&str], clusters: &[Option<usize>], distances: &Distances) -> BinningAgreement {
    let table = Contingency::new(genomes, clusters);
    let noise = clusters.iter().filter(|cluster| cluster.is_none()).count();
    let (homogeneity, completeness) = table.homogeneity_and_completeness();
    BinningAgreement {
        clusters: clusters
            .iter()
            .flatten()
            .max()
            .map_or(0, |largest| *largest as u64 + 1),
        noise: noise as f64 / clusters.len().max(1) as f64,
        ari: table.adjusted_rand_index(),
        v_measure: table.v_measure(),
        homogeneity,
        completeness,
        purity: table.purity(),
        silhouette: distances.silhouette(genomes),
        nearest_neighbour: distances.nearest_is_alike(genomes),
    }
}

#[cfg(test)]
mod tests;
