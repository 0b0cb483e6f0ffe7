use super::position::{self, Scratch};
use crate::quality::QualityError;

/// The logits of one sequence on both sides, ready to be compared position by position. Positions do not depend on each
/// other, so that any number of threads gives the same numbers.
#[derive(Clone, Copy, Debug)]
pub struct SequencePair<'a> {
    reference: &'a [f32],
    mode: &'a [f32],
    ids: &'a [u32],
    vocabulary: usize,
}

/// What one position of a sequence says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenComparison {
    /// Logits of either side that are not finite. With any, the position takes part in nothing.
    pub non_finite: u32,
    /// The comparison of the distributions; `None` with logits that are not finite.
    pub compared: Option<Compared>,
}

/// What a position with finite logits says; divergences in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// KL(reference ‖ mode).
    pub kl: f64,
    /// KL(mode ‖ reference).
    pub kl_reverse: f64,
    /// Jensen–Shannon divergence.
    pub js: f64,
    /// Probability of the reference's most likely token.
    pub confidence: f64,
    /// Whether both find the same token the most likely.
    pub same_top1: bool,
    /// Whether both find the same five tokens the most likely, in any order.
    pub same_top5: bool,
    /// About the token that follows; `None` at the last position.
    pub prediction: Option<Prediction>,
}

/// What a position says about the token that really follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The mode's negative log likelihood in nats.
    pub nll: f64,
    /// The reference's.
    pub reference_nll: f64,
    /// Whether it is the mode's most likely token.
    pub correct: bool,
    /// Whether it is the reference's.
    pub reference_correct: bool,
}

impl Prediction {
    /// The token's probability, the mode's less the reference's.
    pub fn delta_p(&self) -> f64 {
        (-self.nll).exp() - (-self.reference_nll).exp()
    }
}

impl<'a> SequencePair<'a> {
    /// Takes logits `[tokens, vocabulary]` of both sides and the token ids of a sequence without its padding.
    ///
    /// # Errors
    /// The shapes do not fit, or an id is beyond the vocabulary.
    pub fn new(
        reference: &'a [f32],
        mode: &'a [f32],
        ids: &'a [u32],
        vocabulary: usize,
    ) -> Result<Self, QualityError> {
        for (side, logits) in [("reference", reference), ("mode", mode)] {
            if logits.len() != ids.len() * vocabulary {
                let (found, tokens) = (logits.len(), ids.len());
                return Err(QualityError::LogitsShape {
                    side,
                    found,
                    tokens,
                    vocabulary,
                });
            }
        }
        check_ids(ids, vocabulary)?;
        Ok(Self {
            reference,
            mode,
            ids,
            vocabulary,
        })
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.ids.len()
    }

    /// Compares the positions of a range, in order.
    ///
    /// # Panics
    /// When the range goes beyond [`positions`](Self::positions).
    pub fn compare(&self, range: std::ops::Range<usize>) -> Vec<TokenComparison> {
        let mut scratch = Scratch::default();
        range
            .map(|position| self.compare_one(position, &mut scratch))
            .collect()
    }

    fn compare_one(&self, position: usize, scratch: &mut Scratch) -> TokenComparison {
        let row = position * self.vocabulary..(position + 1) * self.vocabulary;
        let (reference, mode) = (&self.reference[row.clone()], &self.mode[row]);
        let non_finite = count_non_finite(reference) + count_non_finite(mode);
        let compared = (non_finite == 0).then(|| {
            let found = position::compare(reference, mode, scratch);
            let next = self.ids.get(position + 1).map(|&id| id as usize);
            Compared {
                kl: found.kl,
                kl_reverse: found.kl_reverse,
                js: found.js,
                confidence: found.reference.confidence,
                same_top1: found.reference.top() == found.mode.top(),
                same_top5: found.reference.same_top_set(&found.mode),
                prediction: next.map(|token| Prediction {
                    nll: found.mode.nll(mode[token]),
                    reference_nll: found.reference.nll(reference[token]),
                    correct: found.mode.top() == token,
                    reference_correct: found.reference.top() == token,
                }),
            }
        });
        TokenComparison { non_finite, compared }
    }
}

/// The negative log likelihoods, in nats, of the tokens at `predicted` in a window whose logits `[tokens, vocabulary]`
/// are given; NaN where a logit is not finite.
///
/// # Errors
/// The shapes do not fit, or an id is beyond the vocabulary.
///
/// # Panics
/// When `predicted` begins before the window's second token or ends beyond its last.
pub fn window_nll(
    logits: &[f32],
    ids: &[u32],
    predicted: std::ops::Range<usize>,
    vocabulary: usize,
) -> Result<Vec<f64>, QualityError> {
    if logits.len() != ids.len() * vocabulary {
        return Err(QualityError::LogitsShape {
            side: "window",
            found: logits.len(),
            tokens: ids.len(),
            vocabulary,
        });
    }
    check_ids(ids, vocabulary)?;
    let nll = |token: usize| {
        let row = &logits[(token - 1) * vocabulary..][..vocabulary];
        position::nll(row, ids[token] as usize)
    };
    Ok(predicted.map(nll).collect())
}

/// Whether every id is in the vocabulary.
fn check_ids(ids: &[u32], vocabulary: usize) -> Result<(), QualityError> {
    match ids.iter().position(|&id| id as usize >= vocabulary) {
        Some(position) => Err(QualityError::UnknownToken {
            id: ids[position],
            position,
            vocabulary,
        }),
        None => Ok(()),
    }
}

fn count_non_finite(row: &[f32]) -> u32 {
    row.iter().map(|logit| u32::from(!logit.is_finite())).sum()
}
