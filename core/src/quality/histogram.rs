//! The histogram divergences of the original Python system.
//!
//! The reference's values span 50 equal bins; the mode's values are put into the same bins, and those outside are
//! dropped (`np.histogram(…, bins=50, density=True)`, then `bins=edges`). Both densities get 1e-10 added and are
//! renormalised to p and q. KL = Σ p·ln(p/q); JS = ½ Σ p·ln(p/m) + ½ Σ q·ln(q/m) with m = (p + q)/2, which is scipy's
//! Jensen–Shannon distance squared. They say how alike two sets of values are, not what a model predicts.

const BINS: usize = 50;

/// Keeps the logarithms finite in empty bins.
const FLOOR: f64 = 1e-10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Divergences {
    /// KL(reference ‖ mode) in nats.
    pub(super) kl: f64,
    /// Jensen–Shannon divergence in nats.
    pub(super) js: f64,
}

/// The divergences of two sets of finite values. `None` when there is no reference, or when every value of the mode
/// lies outside the reference's range, where numpy's density is 0/0.
pub(super) fn divergences(reference: &[f64], mode: &[f64]) -> Option<Divergences> {
    let edges = edges(reference)?;
    let p = probabilities(&edges, reference)?;
    let q = probabilities(&edges, mode)?;
    let (mut kl, mut js) = (0.0, 0.0);
    for (p, q) in p.into_iter().zip(q) {
        let middle = f64::midpoint(p, q);
        kl += p * (p / q).ln();
        js += f64::midpoint(p * (p / middle).ln(), q * (q / middle).ln());
    }
    Some(Divergences { kl, js })
}

/// Equal bins from the smallest to the largest value, half a unit to each side where all are equal.
fn edges(values: &[f64]) -> Option<[f64; BINS + 1]> {
    let mut low = values.iter().copied().reduce(f64::min)?;
    let mut high = values.iter().copied().reduce(f64::max)?;
    if low == high {
        low -= 0.5;
        high += 0.5;
    }
    let step = (high - low) / BINS as f64;
    let mut edges: [f64; BINS + 1] = std::array::from_fn(|index| index as f64 * step + low);
    edges[BINS] = high;
    Some(edges)
}

/// Density over the bins, floored and renormalised. Bins are closed below and open above, the last closed on both sides.
fn probabilities(edges: &[f64; BINS + 1], values: &[f64]) -> Option<[f64; BINS]> {
    let mut counts = [0_u64; BINS];
    for value in values
        .iter()
        .filter(|&value| (edges[0]..=edges[BINS]).contains(value))
    {
        let bin = edges.partition_point(|edge| edge <= value) - 1;
        counts[bin.min(BINS - 1)] += 1;
    }
    let total = counts.iter().sum::<u64>();
    if total == 0 {
        return None;
    }
    let floored: [f64; BINS] = std::array::from_fn(|bin| {
        let width = edges[bin + 1] - edges[bin];
        counts[bin] as f64 / width / total as f64 + FLOOR
    });
    let sum: f64 = floored.iter().sum();
    Some(floored.map(|density| density / sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::test_values::{assert_close, pooled};

    /// What 50 floors of 1e-10 can change in a probability, or in a sum of p·ln p with ln 1e-10 = −23.
    const FLOOR_EFFECT: f64 = 50.0 * FLOOR * 23.0;

    fn widened(values: &[f32]) -> Vec<f64> {
        values.iter().copied().map(f64::from).collect()
    }

    #[test]
    fn divergences_are_numpys_and_scipys() {
        // From np.histogram and scipy.spatial.distance.jensenshannon on the same values.
        for (sequence, kl, js) in [
            (0, 6.016_046_008_607_097, 0.152_208_272_880_836_66),
            (1, 6.057_753_116_355_128, 0.167_389_779_462_563_5),
        ] {
            let (reference, mode) = pooled(sequence);
            let found = divergences(&widened(&reference), &widened(&mode)).unwrap();
            assert_close(found.kl, kl);
            assert_close(found.js, js);
        }
    }

    #[test]
    fn equal_values_do_not_diverge() {
        let (reference, _) = pooled(0);
        let found = divergences(&widened(&reference), &widened(&reference)).unwrap();
        assert_eq!((found.kl, found.js), (0.0, 0.0));
        // All equal: one bin of 0.02 around the value.
        let found = divergences(&[3.0; 4], &[3.0, 3.0, 9.0, 2.0]).unwrap();
        assert_eq!((found.kl, found.js), (0.0, 0.0));
    }

    /// Reference half in the first and half in the last bin (0 and 50), mode all in the first: p = (½, ½), q = (1, 0) up
    /// to the floor, so JS = ½[½ ln(½/¾) + ½ ln(½/¼)] + ½ ln(1/¾).
    #[test]
    fn disjoint_bins_by_hand() {
        let found = divergences(&[0.0, 50.0], &[0.5, 0.0]).unwrap();
        let expected = 0.25 * (2.0_f64 / 3.0).ln() + 0.25 * 2.0_f64.ln() + 0.5 * (4.0_f64 / 3.0).ln();
        assert!(
            (found.js - expected).abs() < FLOOR_EFFECT,
            "{} {expected}",
            found.js
        );
    }

    #[test]
    fn the_last_bin_is_closed_and_values_outside_are_dropped() {
        let edges = edges(&[0.0, 50.0]).unwrap();
        let inside = probabilities(&edges, &[50.0, 49.5, 1.0]).unwrap();
        assert_eq!(
            probabilities(&edges, &[50.0, 49.5, 1.0, 50.1, -0.1, 1e9]),
            Some(inside)
        );
        assert!(
            (inside[49] - 2.0 / 3.0).abs() < FLOOR_EFFECT && (inside[1] - 1.0 / 3.0).abs() < FLOOR_EFFECT
        );
        assert!(inside[0] < FLOOR_EFFECT);
        assert_eq!(probabilities(&edges, &[51.0, -1.0]), None);
        assert!(divergences(&[], &[]).is_none());
    }
}
