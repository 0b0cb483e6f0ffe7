//! Correlation.

/// Pearson's correlation of two samples of equal length; `None` below two values or where a side does not vary.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let varies = |values: &[f64]| values.iter().any(|value| *value != values[0]);
    if a.len() != b.len() || a.len() < 2 || !varies(a) || !varies(b) {
        return None;
    }
    let (mean_a, mean_b) = (super::mean(a)?, super::mean(b)?);
    let (mut product, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        product += a * b;
        square_a += a * a;
        square_b += b * b;
    }
    let correlation = product / (square_a * square_b).sqrt();
    Some(correlation.clamp(-1.0, 1.0)).filter(|correlation| correlation.is_finite())
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing their mean rank (as
/// `scipy.stats.spearmanr`). `None` as for [`pearson`].
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Ranks from 1, equal values sharing their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&one, &other| values[one].total_cmp(&values[other]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&one, &other| values[one] == values[other]) {
        let rank = start as f64 + f64::midpoint(group.len() as f64, 1.0);
        for &index in group {
            ranks[index] = rank;
        }
        start += group.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From scipy.stats.spearmanr and pearsonr 1.17 on the same values; their rounding differs in the last digits.
    #[test]
    fn correlations_are_scipys() {
        const ROUNDING: f64 = 1e-14;
        let a: Vec<f64> = (0..40).map(|i| f64::from((37 * i) % 23)).collect();
        let b: Vec<f64> = (0..40)
            .map(|i| f64::from((37 * i) % 23 + (11 * i) % 17))
            .collect();
        let found = [spearman(&a, &b).unwrap(), pearson(&a, &b).unwrap()];
        for (found, expected) in found
            .into_iter()
            .zip([0.810_374_594_342_544_7, 0.808_184_883_713_777])
        {
            assert!((found - expected).abs() < ROUNDING, "{found} {expected}");
        }
    }

    #[test]
    fn equal_values_share_a_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[0.5, 0.1, -7.0]), Some(-1.0));
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0], &[2.0]), None);
        assert_eq!(pearson(&[1.0, 2.0], &[1.0]), None);
    }
}
