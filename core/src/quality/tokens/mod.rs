//! The next-token distributions of a mode against the reference's.

mod pair;
mod position;

pub use pair::{Compared, Prediction, SequencePair, TokenComparison};

use super::checks::{self, Positions};
use super::distribution;
use crate::results::TokenQuality;

/// Compares the next-token distributions of a mode with the reference's, pooled over all positions of all sequences.
///
/// KL is taken at every position, the last included. nll, accuracy and with them perplexity are taken at every position
/// after the first: the logits at `t` predict token `t + 1`, special tokens included (the loss of transformers with
/// `labels = input_ids`). A position where either side has a logit that is not finite takes part in nothing.
#[derive(Clone, Debug)]
pub struct TokenAccumulator {
    vocabulary: usize,
    kl: Vec<f64>,
    same_top: u64,
    predicted: u64,
    correct: u64,
    nll: f64,
    reference_nll: f64,
    bases: u64,
    non_finite: u64,
    excluded: u64,
}

/// What [`TokenAccumulator`] ends in.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenReport {
    /// The numbers.
    pub quality: TokenQuality,
    /// Doubts about them.
    pub warnings: Vec<String>,
}

impl TokenAccumulator {
    /// Nothing compared yet. `vocabulary` is the number of logits at a position.
    pub fn new(vocabulary: usize) -> Self {
        Self {
            vocabulary,
            kl: Vec::new(),
            same_top: 0,
            predicted: 0,
            correct: 0,
            nll: 0.0,
            reference_nll: 0.0,
            bases: 0,
            non_finite: 0,
            excluded: 0,
        }
    }

    /// Takes the positions of one sequence, in order, and the number of bases that its tokens stand for.
    pub fn add(&mut self, positions: &[TokenComparison], bases: usize) {
        self.bases += bases as u64;
        for position in positions {
            self.non_finite += u64::from(position.non_finite);
            let Some(compared) = position.compared else {
                self.excluded += 1;
                continue;
            };
            self.kl.push(compared.kl);
            self.same_top += u64::from(compared.same_top1);
            if let Some(prediction) = compared.prediction {
                self.predicted += 1;
                self.correct += u64::from(prediction.correct);
                self.nll += prediction.nll;
                self.reference_nll += prediction.reference_nll;
            }
        }
    }

    /// The numbers over everything taken so far. Without any position, prediction or base the numbers that need one
    /// are NaN.
    pub fn finish(mut self) -> TokenReport {
        self.kl.sort_unstable_by(f64::total_cmp);
        let positions = self.kl.len() as f64;
        let predicted = self.predicted as f64;
        let quality = TokenQuality {
            kl_mean: self.kl.iter().sum::<f64>() / positions,
            kl_median: distribution::quantile(&self.kl, 0.5),
            kl_p99: distribution::quantile(&self.kl, 0.99),
            kl_max: self.kl.last().copied().unwrap_or(f64::NAN),
            same_top1: self.same_top as f64 / positions,
            perplexity: (self.nll / predicted).exp(),
            reference_perplexity: (self.reference_nll / predicted).exp(),
            next_token_accuracy: self.correct as f64 / predicted,
            bits_per_base: if self.bases > 0 && self.predicted > 0 {
                self.nll / std::f64::consts::LN_2 / self.bases as f64
            } else {
                f64::NAN
            },
            non_finite: self.non_finite,
        };
        let smallest_kl = self.kl.first().copied().unwrap_or(f64::NAN);
        let positions = Positions {
            compared: self.kl.len() as u64,
            excluded: self.excluded,
        };
        let warnings = checks::tokens(&quality, smallest_kl, positions, self.vocabulary);
        TokenReport { quality, warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::QualityError;
    use crate::quality::test_values::{LOGITS_VOCABULARY, assert_close, logits};

    const TOKENS: [u32; 5] = [5, 1, 4, 2, 3];

    fn add(accumulator: &mut TokenAccumulator, reference: &[f32], mode: &[f32], ids: &[u32], bases: usize) {
        let pair = SequencePair::new(reference, mode, ids, accumulator.vocabulary).unwrap();
        accumulator.add(&pair.compare(0..pair.positions()), bases);
    }

    #[test]
    fn two_sequences_give_scipys_numbers() {
        let mut accumulator = TokenAccumulator::new(LOGITS_VOCABULARY);
        for (sequence, tokens, bases) in [(0, 5, 12), (1, 3, 7)] {
            let (reference, mode) = logits(sequence, tokens);
            add(&mut accumulator, &reference, &mode, &TOKENS[..tokens], bases);
        }
        let report = accumulator.finish();
        assert_eq!(report.warnings, Vec::<String>::new());
        let quality = report.quality;
        // From scipy.special.log_softmax, np.median, np.percentile on the same logits.
        assert_close(quality.kl_mean, 0.140_412_644_251_778_68);
        assert_close(quality.kl_median, 0.131_612_987_385_088_84);
        assert_close(quality.kl_p99, 0.180_361_076_446_822_87);
        assert_close(quality.kl_max, 0.181_051_232_852_249_56);
        assert_close(quality.same_top1, 0.375);
        assert_close(quality.perplexity, 6.303_135_943_812_784);
        assert_close(quality.reference_perplexity, 4.635_549_224_572_576);
        assert_close(quality.next_token_accuracy, 0.166_666_666_666_666_66);
        assert_close(quality.bits_per_base, 0.838_758_877_454_348_5);
        assert_eq!(quality.non_finite, 0);
    }

    /// One token has nothing to predict; its KL counts.
    #[test]
    fn the_last_position_counts_for_kl_only() {
        let mut accumulator = TokenAccumulator::new(2);
        add(&mut accumulator, &[0.0, 0.0], &[0.0, 2.0], &[1], 5);
        let report = accumulator.finish();
        assert_close(report.quality.kl_mean, 1.0_f64.cosh().ln());
        assert_eq!(report.quality.same_top1, 0.0);
        assert!(report.quality.perplexity.is_nan() && report.quality.bits_per_base.is_nan());
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    }

    /// Four equally likely tokens: perplexity 4 = 2 bits a token; 3 predictions over 6 bases are 1 bit a base.
    #[test]
    fn a_uniform_model_by_hand() {
        let mut accumulator = TokenAccumulator::new(4);
        add(&mut accumulator, &[7.0; 16], &[-1.0; 16], &[0, 0, 3, 0], 6);
        let quality = accumulator.finish().quality;
        assert_close(quality.perplexity, 4.0);
        assert_close(quality.reference_perplexity, 4.0);
        assert_close(quality.bits_per_base, 1.0);
        assert_close(quality.next_token_accuracy, 2.0 / 3.0);
        assert_eq!((quality.kl_max, quality.same_top1), (0.0, 1.0));
    }

    #[test]
    fn logits_that_are_not_finite_are_counted_and_left_out() {
        let mut reference = vec![0.0; 6];
        let mut mode = vec![0.0, 2.0, 0.0, 2.0, 0.0, 0.0];
        let mut accumulator = TokenAccumulator::new(2);
        reference[2] = f32::NAN;
        mode[2] = f32::INFINITY;
        mode[3] = f32::NEG_INFINITY;
        add(&mut accumulator, &reference, &mode, &[0, 1, 0], 3);
        let report = accumulator.finish();
        assert_eq!(report.quality.non_finite, 3);
        assert_close(report.quality.kl_mean, 1.0_f64.cosh().ln() / 2.0);
        assert_close(report.quality.reference_perplexity, 2.0);
        assert!(
            report.warnings[0].contains("3 logits at 1 of 3 positions"),
            "{:?}",
            report.warnings
        );

        let mut accumulator = TokenAccumulator::new(2);
        add(&mut accumulator, &[0.0; 4], &[f32::NAN; 4], &[0, 1], 3);
        let report = accumulator.finish();
        assert!(report.quality.kl_mean.is_nan() && report.quality.kl_max.is_nan());
        assert!(report.quality.same_top1.is_nan() && report.quality.perplexity.is_nan());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let error = SequencePair::new(&[0.0; 4], &[0.0; 3], &[0, 1], 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mode logits: 3 values for 2 tokens and a vocabulary of 2; expected 4"
        );
        let error = SequencePair::new(&[0.0; 4], &[0.0; 4], &[0, 2], 2).unwrap_err();
        assert_eq!(
            error,
            QualityError::UnknownToken {
                id: 2,
                position: 1,
                vocabulary: 2
            }
        );
    }
}
