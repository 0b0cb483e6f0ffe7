use std::collections::BTreeMap;

/// How often each class meets each cluster.
///
/// `Contingency::new(classes, clusters)`; noise (`None`) is a cluster, as -1 is for scikit-learn's scores.
pub(super) struct Contingency {
    cells: BTreeMap<(usize, usize), f64>,
    classes: Vec<f64>,
    clusters: Vec<f64>,
    total: f64,
}

impl Contingency {
    pub(super) fn new<A: Ord, B: Ord>(classes: &[A], clusters: &[B]) -> Self {
        let (classes, clusters) = (numbered(classes), numbered(clusters));
        let size = |numbers: &[usize]| numbers.iter().max().map_or(0, |largest| largest + 1);
        let mut table = Self {
            cells: BTreeMap::new(),
            classes: vec![0.0; size(&classes)],
            clusters: vec![0.0; size(&clusters)],
            total: classes.len() as f64,
        };
        for (class, cluster) in classes.into_iter().zip(clusters) {
            *table.cells.entry((class, cluster)).or_default() += 1.0;
            table.classes[class] += 1.0;
            table.clusters[cluster] += 1.0;
        }
        table
    }

    /// (Rand index − expected) / (maximum − expected) (L. Hubert and P. Arabie, "Comparing partitions", J. Classif. 2,
    /// 1985): 1 for equal partitions, about 0 for unrelated ones. `None` of nothing.
    pub(super) fn adjusted_rand_index(&self) -> Option<f64> {
        let pairs = |count: &f64| count * (count - 1.0) / 2.0;
        let together: f64 = self.cells.values().map(pairs).sum();
        let in_class: f64 = self.classes.iter().map(pairs).sum();
        let in_cluster: f64 = self.clusters.iter().map(pairs).sum();
        if self.total == 0.0 {
            return None;
        }
        let expected = if self.total > 1.0 {
            in_class * in_cluster / pairs(&self.total)
        } else {
            0.0
        };
        let most = f64::midpoint(in_class, in_cluster);
        // Both are one piece, or both all pieces: equal.
        Some(if most == expected {
            1.0
        } else {
            (together - expected) / (most - expected)
        })
    }

    /// 1 − H(class | cluster) / H(class), and the other way round (A. Rosenberg and J. Hirschberg, "V-measure", EMNLP
    /// 2007); 1 where there is nothing to know.
    pub(super) fn homogeneity_and_completeness(&self) -> (Option<f64>, Option<f64>) {
        if self.total == 0.0 {
            return (None, None);
        }
        let entropy = |counts: &[f64]| -> f64 {
            counts
                .iter()
                .map(|count| -count / self.total * (count / self.total).ln())
                .sum()
        };
        let information: f64 = self
            .cells
            .iter()
            .map(|(&(class, cluster), count)| {
                count / self.total * (count * self.total / self.classes[class] / self.clusters[cluster]).ln()
            })
            .sum();
        let share = |entropy: f64| Some(if entropy > 0.0 { information / entropy } else { 1.0 });
        (share(entropy(&self.classes)), share(entropy(&self.clusters)))
    }

    /// Harmonic mean of homogeneity and completeness.
    pub(super) fn v_measure(&self) -> Option<f64> {
        let (homogeneity, completeness) = self.homogeneity_and_completeness();
        let (homogeneity, completeness) = (homogeneity?, completeness?);
        let sum = homogeneity + completeness;
        Some(if sum > 0.0 {
            2.0 * homogeneity * completeness / sum
        } else {
            0.0
        })
    }

    /// Share of members of the commonest class of their cluster.
    pub(super) fn purity(&self) -> Option<f64> {
        let mut largest = vec![0.0_f64; self.clusters.len()];
        for (&(_, cluster), &count) in &self.cells {
            largest[cluster] = largest[cluster].max(count);
        }
        (self.total > 0.0).then(|| largest.iter().sum::<f64>() / self.total)
    }
}

/// Each value's place among the different ones.
fn numbered<T: Ord>(values: &[T]) -> Vec<usize> {
    let mut different: Vec<&T> = values.iter().collect();
    different.sort();
    different.dedup();
    values
        .iter()
        .map(|value| different.binary_search(&value).unwrap_or_default())
        .collect()
}
