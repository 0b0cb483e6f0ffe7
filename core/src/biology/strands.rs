//! Reverse-complement consistency.
//!
//! DNA has two strands, and a stretch of it means the same read from either. A model that was not built to know this
//! learns it only roughly (H. Zhou, A. Shrikumar and A. Kundaje, "Towards a better understanding of reverse-complement
//! equivariance for deep learning models in genomics", MLCB 2021). Here each window is read in both directions. What is
//! compared is bits per base, −ln p / ln 2 / bases, since the two strands are cut into different tokens; and the cosine
//! of the two mean-pooled embeddings after the final norm.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::OtherWindows;
use crate::results::{ReverseComplement, StrandPair};
use crate::statistics::{Interval, RESAMPLES, cluster_intervals, mean, spearman};

/// The other strand, read in its own direction. `N` stays `N`.
pub fn reverse_complement(bases: &str) -> String {
    let complement = |base| match base {
        'A' => 'T',
        'C' => 'G',
        'G' => 'C',
        'T' => 'A',
        other => other,
    };
    bases.chars().rev().map(complement).collect()
}

/// Bits per base of a window of so many bases with the log-likelihood `nats`.
pub fn bits_per_base(nats: f64, bases: usize) -> f64 {
    -nats / std::f64::consts::LN_2 / bases as f64
}

/// The cosine of the embeddings of both strands; `None` where one is zero throughout or not finite.
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let cosine = dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt());
    Some(cosine).filter(|cosine| cosine.is_finite())
}

/// What one model says of every window; `reference_bits_per_base` is not set yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StrandScores {
    /// The windows in order.
    pub windows: Vec<StrandPair>,
}

/// Compares a mode with the reference; `generator` draws the intervals' resamples.
///
/// # Errors
/// They did not read the same windows.
pub fn compare(
    reference: &StrandScores,
    mode: StrandScores,
    generator: &mut impl Rng,
) -> Result<ReverseComplement, OtherWindows> {
    let key = |pair: &StrandPair| (pair.genome_id.clone(), pair.fragment_id.clone(), pair.bases);
    if !reference.windows.iter().map(key).eq(mode.windows.iter().map(key)) {
        return Err(OtherWindows {
            what: format!(
                "{} windows, the mode read {}",
                reference.windows.len(),
                mode.windows.len()
            ),
        });
    }
    let all: Vec<StrandPair> = mode
        .windows
        .into_iter()
        .zip(&reference.windows)
        .map(|(pair, reference)| StrandPair {
            reference_bits_per_base: reference.bits_per_base,
            ..pair
        })
        .collect();
    let finite = |pair: &StrandPair| {
        let values = pair.bits_per_base.iter().chain(&pair.reference_bits_per_base);
        values.into_iter().all(|value| value.is_finite())
    };
    let windows: Vec<&StrandPair> = all.iter().filter(|pair| finite(pair)).collect();
    let of = |side: fn(&StrandPair) -> [f64; 2]| -> (Option<f64>, Option<f64>) {
        let [forward, reverse]: [Vec<f64>; 2] =
            [0, 1].map(|strand| windows.iter().map(|pair| side(pair)[strand]).collect());
        let differences: Vec<f64> = forward
            .iter()
            .zip(&reverse)
            .map(|(forward, reverse)| (forward - reverse).abs())
            .collect();
        (mean(&differences), spearman(&forward, &reverse))
    };
    let (strand_difference, strand_spearman) = of(|pair| pair.bits_per_base);
    let (reference_strand_difference, reference_strand_spearman) = of(|pair| pair.reference_bits_per_base);
    let squares: Vec<f64> = windows.iter().map(|pair| squared_change(pair)).collect();
    let [strand_difference_interval, difference_rmse_interval] = intervals(&windows, generator);
    let cosines =
        |pairs: &[StrandPair]| mean(&pairs.iter().filter_map(|pair| pair.cosine).collect::<Vec<_>>());
    Ok(ReverseComplement {
        strand_difference,
        reference_strand_difference,
        strand_spearman,
        reference_strand_spearman,
        strand_cosine: cosines(&all),
        reference_strand_cosine: cosines(&reference.windows),
        difference_rmse: mean(&squares).map(f64::sqrt),
        strand_difference_interval,
        difference_rmse_interval,
        non_finite: (all.len() - windows.len()) as u64,
        windows: all,
    })
}

/// The first strand's bits per base less the other's.
fn signed([forward, reverse]: [f64; 2]) -> f64 {
    forward - reverse
}

fn squared_change(pair: &StrandPair) -> f64 {
    (signed(pair.bits_per_base) - signed(pair.reference_bits_per_base)).powi(2)
}

/// Intervals of the mean difference between strands and of the root mean square of its change, genomes drawn with their
/// windows; windows where all are of one genome.
fn intervals(windows: &[&StrandPair], generator: &mut impl Rng) -> [Option<Interval>; 2] {
    let one_genome = windows
        .windows(2)
        .all(|pair| pair[0].genome_id == pair[1].genome_id);
    // Genome, windows, sum of differences, sum of squared changes.
    let mut clusters: Vec<(&str, [f64; 3])> = Vec::new();
    for window in windows {
        let values = [1.0, signed(window.bits_per_base).abs(), squared_change(window)];
        let known = clusters
            .iter_mut()
            .find(|(genome, _)| !one_genome && *genome == window.genome_id);
        match known {
            Some((_, sums)) => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
            None => clusters.push((&window.genome_id, values)),
        }
    }
    cluster_intervals(clusters.len(), RESAMPLES, generator, |drawn| {
        let mut total = [0.0; 3];
        for ((_, sums), &times) in clusters.iter().zip(drawn) {
            for (total, sum) in total.iter_mut().zip(sums) {
                *total += f64::from(times) * sum;
            }
        }
        let [count, differences, squares] = total;
        [differences / count, (squares / count).sqrt()]
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as Generator;
    use serde_json::Value;

    use super::*;

    fn compare(reference: &StrandScores, mode: StrandScores) -> Result<ReverseComplement, OtherWindows> {
        super::compare(reference, mode, &mut Generator::seed_from_u64(1))
    }

    /// 36 windows of six genomes against numpy; `fixtures/biology/generate.py` forms the same.
    #[test]
    fn intervals_are_those_of_numpys_bootstrap() {
        /// How far an end moves from seed to seed, in half-widths, at 9999 resamples of six genomes.
        const RESAMPLING: f64 = 0.1;
        let side = |mode: u32| {
            let windows = (0..36_u32).map(|k| {
                let bits =
                    |factor: u32, off: u32| 1.8 + f64::from((factor * k + off + mode * k * k) % 19) / 64.0;
                StrandPair {
                    genome_id: (k % 6).to_string(),
                    fragment_id: k.to_string(),
                    bits_per_base: [bits(7, 0), bits(11, 5)],
                    ..StrandPair::default()
                }
            });
            StrandScores {
                windows: windows.collect(),
            }
        };
        let found = compare(&side(0), side(1)).unwrap();
        let text = include_str!("../../tests/fixtures/biology/expected.json");
        let expected = &serde_json::from_str::<Value>(text).unwrap()["strands"];
        for (name, value, interval) in [
            (
                "strand_difference",
                found.strand_difference,
                found.strand_difference_interval,
            ),
            (
                "difference_rmse",
                found.difference_rmse,
                found.difference_rmse_interval,
            ),
        ] {
            let [mean, low, high]: [f64; 3] = serde_json::from_value(expected[name].clone()).unwrap();
            assert!((value.unwrap() - mean).abs() < 1e-13, "{name}: {value:?} {mean}");
            let (interval, allowed) = (interval.unwrap(), RESAMPLING * (high - low) / 2.0);
            assert!(
                (interval.low - low).abs() < allowed && (interval.high - high).abs() < allowed,
                "{name}: {interval:?}, expected {low} to {high}"
            );
        }
    }

    #[test]
    fn the_other_strand_is_read_backwards() {
        assert_eq!(reverse_complement("AACGTN"), "NACGTT");
        assert_eq!(reverse_complement(&reverse_complement("GATTACA")), "GATTACA");
    }

    fn scores(bits: &[[f64; 2]]) -> StrandScores {
        let windows = bits.iter().enumerate().map(|(index, &bits_per_base)| StrandPair {
            fragment_id: index.to_string(),
            bases: 512,
            bits_per_base,
            cosine: Some(0.5),
            ..StrandPair::default()
        });
        StrandScores {
            windows: windows.collect(),
        }
    }

    /// Differences of the mode 0.25, −0.25 and 0.5, of the reference 0.25, 0.25 and 0.5: means ⅓ both, and the root
    /// mean square of 0, −0.5 and 0 is 0.5/√3.
    #[test]
    fn three_windows_by_hand() {
        let reference = scores(&[[2.0, 1.75], [1.5, 1.25], [1.75, 1.25]]);
        let mode = scores(&[[2.0, 1.75], [1.25, 1.5], [1.75, 1.25]]);
        let found = compare(&reference, mode).unwrap();
        assert_eq!(found.strand_difference, Some(1.0 / 3.0));
        assert_eq!(found.reference_strand_difference, Some(1.0 / 3.0));
        assert!((found.difference_rmse.unwrap() - 0.5 / 3.0_f64.sqrt()).abs() < 1e-15);
        // Ranks 3 1 2 against 3 2 1, and 3 1 2 against 3 1.5 1.5.
        assert_eq!(found.strand_spearman, Some(0.5));
        assert!((found.reference_strand_spearman.unwrap() - 0.75_f64.sqrt()).abs() < 1e-15);
        assert_eq!((found.strand_cosine, found.non_finite), (Some(0.5), 0));
        assert_eq!(found.windows[1].reference_bits_per_base, [1.5, 1.25]);
    }

    #[test]
    fn windows_that_are_not_finite_are_counted_and_others_refused() {
        let reference = scores(&[[2.0, 1.75], [1.5, 1.25]]);
        let found = compare(&reference, scores(&[[2.0, 1.75], [f64::NAN, 1.25]])).unwrap();
        assert_eq!((found.non_finite, found.strand_difference), (1, Some(0.25)));
        assert!(compare(&reference, scores(&[[2.0, 1.75]])).is_err());
    }
}
