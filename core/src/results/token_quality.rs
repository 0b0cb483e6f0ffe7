//! The token-level numbers of a quality cell, as the record holds them.

use serde::{Deserialize, Serialize};

use crate::statistics::Interval;

/// A number with its 95 % interval by the paired bootstrap over genomes (see [`TokenQuality::interval_unit`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    #[serde(with = "super::number")]
    pub value: f64,
    /// Its interval; `None` where there is nothing to draw from.
    pub interval: Option<Interval>,
}

/// Declares [`Distribution`] with its quantiles, each with its probability.
macro_rules! distribution {
    ($($quantile:ident: $probability:literal,)*) => {
        /// A quantity over all positions: its mean and its quantiles, by linear interpolation, exact.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "`p99_9` is the quantile of 99.9 %")]
        pub struct Distribution {
            pub mean: Estimate,
            $(
                #[serde(with = "super::number")]
                pub $quantile: f64,
            )*
            /// 95 % intervals of the quantiles, in their order; the smallest and the largest value have none.
            #[serde(default)]
            pub quantile_intervals: [Option<Interval>; Distribution::PROBABILITIES.len()],
        }

        impl Distribution {
            /// The probabilities of the quantiles, in the order of the fields.
            pub const PROBABILITIES: [f64; [$($probability),*].len()] = [$($probability),*];

            /// From a mean and the quantiles at [`PROBABILITIES`](Self::PROBABILITIES).
            pub fn new(mean: Estimate, quantiles: [Estimate; Self::PROBABILITIES.len()]) -> Self {
                let quantile_intervals = quantiles.map(|quantile| quantile.interval);
                let [$($quantile),*] = quantiles.map(|quantile| quantile.value);
                Self { mean, $($quantile,)* quantile_intervals }
            }

            /// The quantiles at [`PROBABILITIES`](Self::PROBABILITIES).
            pub fn quantiles(&self) -> [Estimate; Self::PROBABILITIES.len()] {
                let values = [$(self.$quantile),*];
                std::array::from_fn(|index| Estimate {
                    value: values[index],
                    interval: self.quantile_intervals[index],
                })
            }
        }
    };
}

distribution! {
    min: 0.0,
    p0_1: 0.001,
    p1: 0.01,
    p5: 0.05,
    p10: 0.1,
    p25: 0.25,
    median: 0.5,
    p75: 0.75,
    p90: 0.9,
    p95: 0.95,
    p99: 0.99,
    p99_9: 0.999,
    max: 1.0,
}

/// Metrics over the next-token distribution, pooled over all tokens of all sequences. Divergences in nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenQuality {
    /// Positions that were compared.
    pub positions: u64,
    /// Those that have a next token.
    pub predicted: u64,
    /// Positions left out because a logit is not finite.
    pub excluded: u64,
    /// Logits that were not finite.
    pub non_finite: u64,
    /// Bases that the tokens stand for.
    pub bases: u64,
    /// What the intervals' bootstrap draws: `genome`, or `sequence` where all are of one genome.
    pub interval_unit: String,
    /// KL(reference ‖ mode).
    pub kl: Distribution,
    /// KL(mode ‖ reference).
    pub kl_reverse: Distribution,
    /// Jensen–Shannon divergence.
    pub js: Distribution,
    /// Probability of the true next token, the mode's less the reference's.
    pub delta_p: Distribution,
    /// Root of the mean square of the same.
    pub delta_p_rms: Estimate,
    /// Share of positions with the same most likely token.
    pub same_top1: Estimate,
    /// Share of positions with the same five most likely tokens, in any order.
    pub same_top5: Estimate,
    /// exp(Σ nll / Σ predicted tokens).
    pub perplexity: Estimate,
    /// The reference's perplexity on the same tokens.
    #[serde(with = "super::number")]
    pub reference_perplexity: f64,
    /// ln(perplexity / reference's perplexity).
    pub ln_perplexity_ratio: Estimate,
    /// Standard error of the same over tokens, with the covariance of both sides, tokens taken as independent: what
    /// llama.cpp reports. The interval, over genomes, is the one to believe.
    #[serde(with = "super::number")]
    pub ln_perplexity_ratio_standard_error: f64,
    /// Pearson correlation of both sides' nll over tokens.
    #[serde(with = "super::number")]
    pub nll_correlation: f64,
    /// Share of predicted tokens that are the most likely one.
    pub next_token_accuracy: Estimate,
    /// The reference's.
    #[serde(with = "super::number")]
    pub reference_accuracy: f64,
    /// The mode's accuracy less the reference's.
    pub accuracy_difference: Estimate,
    /// Tokens that only the mode has right.
    pub only_mode_correct: u64,
    /// Tokens that only the reference has right.
    pub only_reference_correct: u64,
    /// p of McNemar's exact test that both are right equally often.
    #[serde(with = "super::number")]
    pub mcnemar_p: f64,
    /// Σ nll / ln 2 / bases of the kept tokens.
    pub bits_per_base: Estimate,
    /// Mean over genomes of the genome's mean KL(reference ‖ mode).
    pub kl_macro: Estimate,
    /// exp of the mean over genomes of the genome's nll a token.
    pub perplexity_macro: Estimate,
    /// Perplexity over sliding windows, where it was asked for.
    #[serde(default)]
    pub sliding: Option<SlidingPerplexity>,
    /// By the probability of the reference's most likely token.
    pub by_confidence: Vec<TokenGroup>,
    /// By the share of G and C in the sequence.
    pub by_gc: Vec<TokenGroup>,
    /// By genome, in the order of the data; the label is the genome's id.
    pub by_genome: Vec<TokenGroup>,
    /// Each sequence, for pairing with another run.
    pub sequences: Vec<SequenceQuality>,
}

/// Perplexity over sliding windows: every token but a sequence's first is predicted once, in the first window that has
/// it, from all tokens of the window before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlidingPerplexity {
    /// Tokens a window.
    pub context_len: usize,
    /// Tokens from one window's start to the next.
    pub stride: usize,
    /// exp(Σ nll / Σ predicted tokens).
    pub perplexity: Estimate,
    /// The reference's.
    #[serde(with = "super::number")]
    pub reference_perplexity: f64,
    /// Predicted tokens.
    pub predicted: u64,
}

/// The numbers of a part of the positions. A number that needs predicted tokens is NaN where there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenGroup {
    /// The part: a genome's id, or the range, such as `0.25-0.5`.
    pub label: String,
    /// Lower end of the range, included; `None` for a genome.
    pub low: Option<f64>,
    /// Upper end of the range, excluded but for the last; `None` for a genome.
    pub high: Option<f64>,
    /// Positions in it.
    pub positions: u64,
    /// Predicted tokens in it.
    pub predicted: u64,
    /// Mean KL(reference ‖ mode); a genome has no interval.
    pub kl: Estimate,
    /// Share of positions with the same most likely token.
    #[serde(with = "super::number")]
    pub same_top1: f64,
    /// exp(Σ nll / Σ predicted tokens).
    #[serde(with = "super::number")]
    pub perplexity: f64,
    /// The reference's.
    #[serde(with = "super::number")]
    pub reference_perplexity: f64,
    /// Share of predicted tokens that are the most likely one.
    #[serde(with = "super::number")]
    pub next_token_accuracy: f64,
}

/// The numbers of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequenceQuality {
    /// Its index in the data.
    pub sequence: usize,
    /// Index of its genome in [`TokenQuality::by_genome`].
    pub genome: usize,
    /// Share of G and C among its bases that are not N; `None` without any.
    pub gc: Option<f64>,
    /// Positions that were compared.
    pub positions: u64,
    /// Those that have a next token.
    pub predicted: u64,
    /// Bases that the tokens stand for.
    pub bases: u64,
    /// Mean KL(reference ‖ mode).
    #[serde(with = "super::number")]
    pub kl: f64,
    /// Mean nll of the predicted tokens.
    #[serde(with = "super::number")]
    pub nll: f64,
    /// The reference's.
    #[serde(with = "super::number")]
    pub reference_nll: f64,
    /// Positions with the same most likely token.
    pub same_top1: u64,
    /// Predicted tokens that are the mode's most likely one.
    pub correct: u64,
    /// Those that are the reference's.
    pub reference_correct: u64,
}
