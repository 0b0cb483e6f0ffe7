//! Is B's quality that of A? Paired by sequence, so that what is hard about a sequence cancels.
//!
//! Two ratios of each quality cell are tested as times are:
//! - *token KL*: (KL of B + ε) / (KL of A + ε) of each sequence's mean KL, where ε = 1e-6 nats keeps cells that equal the
//!   reference comparable: what lies below it is nobody's concern;
//! - *perplexity*: B / A, the exponential of the difference in a sequence's mean nll.
//!
//! Sequences of one genome are alike: with three genomes or more, the mean over each genome's sequences is one value,
//! otherwise each sequence is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::comparison::TestedRatio;
use super::measured::CellKey;
use crate::results::{CellKind, Record, Status, TokenQuality, is_noise_floor};
use crate::statistics::{Effect, MINIMUM_PAIRS, PairedTest, Question, mean};

/// Added to each KL, in nats.
const KL_RESOLUTION: f64 = 1e-6;

/// How much worse or better counts as equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QualityMargins {
    /// Of the token KL, as a share.
    pub kl: f64,
    /// Of the perplexity, as a share.
    pub perplexity: f64,
}

impl Default for QualityMargins {
    /// 5 % of the KL, 0.5 % of the perplexity.
    fn default() -> Self {
        Self {
            kl: 0.05,
            perplexity: 0.005,
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QualityMetric {
    /// Mean KL(reference ‖ mode) a token.
    TokenKl,
    /// Perplexity.
    Perplexity,
}

impl QualityMetric {
    /// The metric in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenKl => "token KL",
            Self::Perplexity => "perplexity",
        }
    }
}

/// The answer for a metric of which less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum QualityVerdict {
    /// The ratio lies within the margin.
    Equivalent,
    /// B's is smaller.
    Better,
    /// B's is larger.
    Worse,
    /// The sequences do not say.
    Ambiguous,
}

impl QualityVerdict {
    /// The verdict as tables show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equivalent => "EQUIVALENT",
            Self::Better => "BETTER",
            Self::Worse => "WORSE",
            Self::Ambiguous => "AMBIGUOUS",
        }
    }
}

impl From<Effect> for QualityVerdict {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Same => Self::Equivalent,
            Effect::Faster => Self::Better,
            Effect::Slower => Self::Worse,
            Effect::Ambiguous => Self::Ambiguous,
        }
    }
}

/// The quality of a cell as one side measured it.
#[derive(Clone, Debug, PartialEq)]
pub struct QualityCell {
    /// Which cell.
    pub key: CellKey,
    /// Its numbers, or status and reason without.
    pub tokens: Result<TokenQuality, String>,
}

impl QualityCell {
    /// The quality cell of a record; `None` for another kind, for the noise floor, and for one that has no numbers by
    /// its nature (a synthetic model).
    pub(super) fn of(record: &Record) -> Option<Self> {
        if record.cell.kind != CellKind::Quality || is_noise_floor(&record.cell.mode) {
            return None;
        }
        let cell = &record.cell;
        let tokens = if record.status == Status::Ok {
            Ok(record.quality.as_ref()?.tokens_level.clone()?)
        } else {
            Err(format!("{}: {}", record.status.as_str(), record.reason))
        };
        Some(Self {
            key: CellKey {
                model: cell.model.clone(),
                backend: cell.backend.clone(),
                device: cell.device.clone(),
                precision: cell.precision.clone(),
                mode: cell.mode.clone(),
                condition: cell.condition.clone(),
                workload: cell.workload.to_string(),
                batch_size: Some(cell.batch_size as u64),
            },
            tokens,
        })
    }
}

/// A metric of a quality cell with numbers on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedQuality {
    /// Which cell.
    pub cell: CellKey,
    /// Which metric.
    pub metric: QualityMetric,
    /// The verdict.
    pub verdict: QualityVerdict,
    /// Why it is ambiguous.
    pub reason: Option<String>,
    /// The metric over all of A's tokens.
    pub a: Option<f64>,
    /// The metric over all of B's tokens.
    pub b: Option<f64>,
    /// Sequences that are in both.
    pub sequences: usize,
    /// Values that were tested: genomes, or sequences.
    pub pairs: usize,
    /// B / A; `None` where it was not tested.
    pub ratio: Option<TestedRatio>,
}

/// A metric of a cell with the test, or why there is none.
pub(super) struct QualityPair {
    compared: ComparedQuality,
    margin: f64,
    pub(super) test: Result<PairedTest, String>,
}

impl QualityPair {
    /// Both metrics of a cell.
    pub(super) fn of(
        key: &CellKey,
        a: &TokenQuality,
        b: &TokenQuality,
        margins: QualityMargins,
    ) -> [Self; 2] {
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        let pair = |metric, margin, values: [f64; 2], log_ratio: LogRatio| {
            let found = log_ratios(a, b, log_ratio);
            let (sequences, values_tested, test) = match found {
                Err(reason) => (0, 0, Err(reason)),
                Ok((sequences, ratios)) => {
                    let test = PairedTest::of(&ratios, margin).ok_or_else(|| {
                        format!(
                            "{} pairs, at least {MINIMUM_PAIRS} are needed: take more sequences",
                            ratios.len()
                        )
                    });
                    (sequences, ratios.len(), test)
                }
            };
            Self {
                compared: ComparedQuality {
                    cell: key.clone(),
                    metric,
                    verdict: QualityVerdict::Ambiguous,
                    reason: None,
                    a: finite(values[0]),
                    b: finite(values[1]),
                    sequences,
                    pairs: values_tested,
                    ratio: None,
                },
                margin,
                test,
            }
        };
        [
            pair(
                QualityMetric::TokenKl,
                margins.kl,
                [a.kl.mean.value, b.kl.mean.value],
                |a, b| ((b.kl + KL_RESOLUTION) / (a.kl + KL_RESOLUTION)).ln(),
            ),
            pair(
                QualityMetric::Perplexity,
                margins.perplexity,
                [a.perplexity.value, b.perplexity.value],
                |a, b| b.nll - a.nll,
            ),
        ]
    }

    /// The verdict, from p-values that were corrected over the table.
    pub(super) fn judge(self, corrected: Option<(f64, f64)>, alpha: f64) -> ComparedQuality {
        let Self {
            mut compared,
            margin,
            test,
        } = self;
        match (test, corrected) {
            (Ok(test), Some((p_difference, p_equivalence))) => {
                let question = Question { margin, alpha };
                compared.verdict = test.effect(p_difference, p_equivalence, question).into();
                compared.reason = (compared.verdict == QualityVerdict::Ambiguous).then(|| {
                    format!(
                        "neither a difference beyond {} % nor equality within it can be shown; more sequences would tell",
                        super::render::percent(margin)
                    )
                });
                compared.ratio = Some(TestedRatio {
                    ratio: test.ratio(),
                    interval: test.ratio_interval,
                    p_difference,
                    p_equivalence,
                });
            }
            (Err(reason), _) => compared.reason = Some(reason),
            (Ok(_), None) => {}
        }
        compared
    }
}

type LogRatio = fn(&crate::results::SequenceQuality, &crate::results::SequenceQuality) -> f64;

/// Number of sequences that both have, and the values to test.
fn log_ratios(a: &TokenQuality, b: &TokenQuality, log_ratio: LogRatio) -> Result<(usize, Vec<f64>), String> {
    let of_b: BTreeMap<usize, _> = b
        .sequences
        .iter()
        .map(|sequence| (sequence.sequence, sequence))
        .collect();
    let genome =
        |tokens: &TokenQuality, index: usize| tokens.by_genome.get(index).map(|group| group.label.clone());
    let mut genomes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut count = 0;
    for of_a in &a.sequences {
        let Some(of_b) = of_b.get(&of_a.sequence) else {
            continue;
        };
        let name = genome(a, of_a.genome);
        let same =
            (of_a.bases, of_a.predicted, &name) == (of_b.bases, of_b.predicted, &genome(b, of_b.genome));
        if !same {
            return Err(format!(
                "sequence {} is not the same in both; evaluate both on the same data with the same settings",
                of_a.sequence
            ));
        }
        let value = log_ratio(of_a, of_b);
        if value.is_finite() {
            count += 1;
            genomes.entry(name.unwrap_or_default()).or_default().push(value);
        }
    }
    let values = if genomes.len() >= MINIMUM_PAIRS {
        genomes.values().filter_map(|values| mean(values)).collect()
    } else {
        genomes.into_values().flatten().collect()
    };
    Ok((count, values))
}
