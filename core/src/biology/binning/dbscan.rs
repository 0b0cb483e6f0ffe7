//! DBSCAN (M. Ester, H.-P. Kriegel, J. Sander and X. Xu, KDD 1996) over given distances.
//!
//! A few lines on distances that are there anyway. The crates that offer it were looked at: petal-clustering leaves
//! clusters out that lost border points to an earlier one, and linfa-clustering brings some sixty crates.

use super::distances::Distances;

/// The cluster of each point, numbered from 0 in the order of their first core points; `None` is noise. A core point has
/// `minimum_points` within `epsilon`, itself and the edge included; a border point belongs to the first cluster that
/// reaches it. The same labels as scikit-learn's.
pub(super) fn dbscan(distances: &Distances, epsilon: f64, minimum_points: usize) -> Vec<Option<usize>> {
    let neighbours = |point: usize| {
        let near = distances.of(point).iter().enumerate();
        near.filter(move |(_, distance)| **distance <= epsilon)
            .map(|(other, _)| other)
    };
    let core: Vec<bool> = (0..distances.len())
        .map(|point| neighbours(point).count() >= minimum_points)
        .collect();
    let mut clusters = vec![None; distances.len()];
    let mut next = 0;
    for start in 0..distances.len() {
        if !core[start] || clusters[start].is_some() {
            continue;
        }
        clusters[start] = Some(next);
        let mut reached = vec![start];
        while let Some(point) = reached.pop() {
            for other in neighbours(point) {
                if clusters[other].is_none() {
                    clusters[other] = Some(next);
                    if core[other] {
                        reached.push(other);
                    }
                }
            }
        }
        next += 1;
    }
    clusters
}
