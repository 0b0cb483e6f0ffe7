//! Effects of single-nucleotide variants without training (zero shot).
//!
//! The score of a substitution is the log-likelihood ratio ln p(window with it) − ln p(window as it is), the usual
//! zero-shot score of genomic language models (G. Benegas, S. S. Batra and Y. S. Song, "DNA language models are powerful
//! predictors of genome-wide variant effects", PNAS 2023; E. Nguyen et al., "Sequence modeling and design from molecular
//! to genome scale with Evo", Science 2024). Low scores are substitutions that the model takes for damaging.
//!
//! With tokens of several bases a substitution changes how its neighbourhood is cut into tokens, so that no single
//! token's probabilities can be compared. What is compared is the likelihood of **the whole window**: all its bases, each
//! window tokenised for itself, the special tokens around it not counted. Windows are centred on the position as far as
//! the fragment allows.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{Fragment, OtherWindows};
use crate::results::{VariantScore, Variants};
use crate::statistics::{mean, quantile, spearman, standard_deviation};

/// Resamples of the bootstrap over positions; its ends are quoted to two or three digits.
const RESAMPLES: usize = 2_000;

/// Level of its interval.
const CONFIDENCE: f64 = 0.95;

const BASES: [char; 4] = ['A', 'C', 'G', 'T'];

/// A position at which all substitutions are made, with its window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site<'a> {
    /// Where the window lies.
    pub fragment: Fragment<'a>,
    /// The position in the fragment, from 0.
    pub position: usize,
    /// The window's first base.
    pub start: usize,
    /// One after its last.
    pub end: usize,
}

impl Site<'_> {
    /// The window as it is.
    pub fn window(&self) -> &str {
        &self.fragment.bases[self.start..self.end]
    }

    /// The base at the position.
    pub fn reference_base(&self) -> char {
        char::from(self.fragment.bases.as_bytes()[self.position])
    }

    /// The three other bases, each with the window that has it at the position.
    pub fn alternatives(&self) -> impl Iterator<Item = (char, String)> {
        let reference = self.reference_base();
        BASES
            .into_iter()
            .filter(move |&base| base != reference)
            .map(move |base| {
                let mut window = self.window().to_owned();
                let place = self.position - self.start;
                window.replace_range(place..=place, base.encode_utf8(&mut [0; 4]));
                (base, window)
            })
    }
}

/// Draws `positions` positions with a known base, spread over the fragments as evenly as goes and without repetition
/// within a fragment; fewer where there are fewer. Windows have `window` bases, or as many as the fragment has.
pub fn sample_sites<'a>(
    fragments: &[Fragment<'a>],
    positions: usize,
    window: usize,
    generator: &mut impl Rng,
) -> Vec<Site<'a>> {
    let mut sites = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        // The first fragments get one more where it does not come out even.
        let share = positions / fragments.len() + usize::from(index < positions % fragments.len());
        let mut known: Vec<usize> = fragment
            .bases
            .char_indices()
            .filter(|(_, base)| BASES.contains(base))
            .map(|(position, _)| position)
            .collect();
        for _ in 0..share.min(known.len()) {
            let position = known.swap_remove(generator.random_range(0..known.len()));
            let length = window.min(fragment.bases.len());
            let start = position
                .saturating_sub(length / 2)
                .min(fragment.bases.len() - length);
            sites.push(Site {
                fragment: *fragment,
                position,
                start,
                end: start + length,
            });
        }
    }
    sites
}

/// What one model says of every variant; `reference_score` is not set yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VariantScores {
    /// Bases of a window at most.
    pub window: usize,
    /// The three variants of every site, site after site.
    pub scores: Vec<VariantScore>,
}

/// Variants a site.
const SUBSTITUTIONS: usize = 3;

/// Compares a mode with the reference; `generator` serves the bootstrap.
///
/// # Errors
/// They did not read the same windows.
pub fn compare(
    reference: &VariantScores,
    mode: VariantScores,
    generator: &mut impl Rng,
) -> Result<Variants, OtherWindows> {
    let key = |score: &VariantScore| {
        let VariantScore {
            genome_id,
            fragment_id,
            position,
            alternative_base,
            ..
        } = score;
        (
            genome_id.clone(),
            fragment_id.clone(),
            *position,
            *alternative_base,
        )
    };
    if reference.window != mode.window || !reference.scores.iter().map(key).eq(mode.scores.iter().map(key)) {
        return Err(OtherWindows {
            what: format!(
                "{} variants in windows of {} bases, the mode read {} in {}",
                reference.scores.len(),
                reference.window,
                mode.scores.len(),
                mode.window
            ),
        });
    }
    let all: Vec<VariantScore> = mode
        .scores
        .into_iter()
        .zip(&reference.scores)
        .map(|(score, reference)| VariantScore {
            reference_score: reference.score,
            ..score
        })
        .collect();
    let finite = |score: &VariantScore| score.score.is_finite() && score.reference_score.is_finite();
    let sites: Vec<Vec<(f64, f64)>> = all
        .chunks(SUBSTITUTIONS)
        .map(|site| {
            let finite = site.iter().filter(|score| finite(score));
            finite.map(|score| (score.reference_score, score.score)).collect()
        })
        .collect();
    let pairs: Vec<(f64, f64)> = sites.concat();
    let (references, scores): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let squares: Vec<f64> = pairs.iter().map(|(a, b)| (a - b).powi(2)).collect();
    let same_sign: Vec<f64> = pairs
        .iter()
        .map(|(a, b)| f64::from(u8::from((*a < 0.0) == (*b < 0.0))))
        .collect();
    Ok(Variants {
        window_bases: mode.window as u64,
        positions: sites.len() as u64,
        spearman: spearman(&references, &scores),
        spearman_interval: spearman_interval(&sites, generator),
        top_decile_overlap: top_decile_overlap(&references, &scores),
        same_sign: mean(&same_sign),
        rmse: mean(&squares).map(f64::sqrt),
        reference_std: standard_deviation(&references),
        non_finite: (all.len() - pairs.len()) as u64,
        scores: all,
    })
}

/// Share of the reference's lowest tenth (rounded up) that is in the mode's; of equal scores the first counts as lower.
fn top_decile_overlap(reference: &[f64], mode: &[f64]) -> Option<f64> {
    let count = reference.len().div_ceil(10);
    let lowest = |values: &[f64]| -> Vec<usize> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&one, &other| values[one].total_cmp(&values[other]));
        order.truncate(count);
        order
    };
    let (reference, mode) = (lowest(reference), lowest(mode));
    let shared = reference.iter().filter(|index| mode.contains(index)).count();
    (count > 0).then(|| shared as f64 / count as f64)
}

/// Percentile interval of Spearman's correlation, whole sites drawn with replacement: the variants of one window share
/// everything but a base.
fn spearman_interval(sites: &[Vec<(f64, f64)>], generator: &mut impl Rng) -> Option<[f64; 2]> {
    if sites.len() < 2 {
        return None;
    }
    let mut drawn = Vec::new();
    let correlations: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            drawn.clear();
            for _ in 0..sites.len() {
                drawn.extend_from_slice(&sites[generator.random_range(0..sites.len())]);
            }
            let (reference, mode): (Vec<f64>, Vec<f64>) = drawn.iter().copied().unzip();
            spearman(&reference, &mode)
        })
        .collect();
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some([
        quantile(&correlations, tail)?,
        quantile(&correlations, 1.0 - tail)?,
    ])
}

#[cfg(test)]
mod tests;
