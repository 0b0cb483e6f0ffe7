//! Cells paired, tested and judged.

use std::path::PathBuf;

use serde::Serialize;

use super::measured::{Block, CellKey, CompareError, Measured, MeasuredCell};
use super::quality::{ComparedQuality, QualityCell, QualityMargins, QualityPair, QualityVerdict};
use super::render::percent;
use crate::statistics::{Effect, Interval, MINIMUM_PAIRS, PairedTest, Question, holm, median};

/// Tokens in a batch may differ by this share between A and B before they count as different work. Ours times whole
/// passes, hence the same work to the token; other programs may not.
const WORK_TOLERANCE: f64 = 0.01;

/// What stands for the time of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Median of its batches.
    Median,
    /// Mean of its batches, where one side did not keep them.
    Mean,
}

/// Two sets of measurements compared.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Where A was read.
    pub a: PathBuf,
    /// Where B was read.
    pub b: PathBuf,
    /// Equivalence margin of the ratio B / A; 0.03 for 3 %.
    pub margin: f64,
    /// Probability of a wrong verdict over all cells, of each kind.
    pub alpha: f64,
    /// Margins of the ratios of quality.
    pub quality_margins: QualityMargins,
    /// Number of ratios that were tested, for which p-values are corrected.
    pub tested: usize,
    /// Cells that have numbers in both, in A's order.
    pub cells: Vec<ComparedCell>,
    /// Cells that have numbers in A alone.
    pub only_in_a: Vec<Missing>,
    /// Cells that have numbers in B alone.
    pub only_in_b: Vec<Missing>,
    /// Quality cells that have numbers in both, in A's order, a line a metric.
    pub quality: Vec<ComparedQuality>,
    /// Quality cells that have numbers in A alone.
    pub quality_only_in_a: Vec<Missing>,
    /// Quality cells that have numbers in B alone.
    pub quality_only_in_b: Vec<Missing>,
    /// Doubts.
    pub warnings: Vec<String>,
}

/// A cell with numbers on one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    /// Which cell.
    pub cell: CellKey,
    /// Why the other side has none: it failed there. `None` when it was not run there.
    pub failure: Option<String>,
}

/// A cell with numbers on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedCell {
    /// Which cell.
    pub cell: CellKey,
    /// The verdict.
    pub verdict: Effect,
    /// Why the verdict is [`Effect::Ambiguous`].
    pub reason: Option<String>,
    /// Number of pairs of blocks.
    pub blocks: usize,
    /// Blocks of A without a partner in B.
    pub unpaired_a: usize,
    /// Blocks of B without a partner in A.
    pub unpaired_b: usize,
    /// What stands for the time of a block.
    pub statistic: Statistic,
    /// Time per batch, B / A; `None` where it was not tested.
    pub time: Option<TestedRatio>,
    /// A's figures, medians over its blocks.
    pub a: Speed,
    /// B's figures.
    pub b: Speed,
    /// Memory, B / A.
    pub memory: Memory,
}

/// The test of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TestedRatio {
    /// B / A, geometric mean over the pairs; above 1, B is slower or worse.
    pub ratio: f64,
    /// Its 95 % interval, not corrected for many tests.
    pub interval: Interval,
    /// p of "no difference", corrected.
    pub p_difference: f64,
    /// p of "not within the margin", corrected.
    pub p_equivalence: f64,
}

/// Figures of one side, medians over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Milliseconds a batch.
    pub batch_ms: Option<f64>,
    /// Tokens a second.
    pub tokens_per_s: Option<f64>,
    /// Bases a second.
    pub bases_per_s: Option<f64>,
}

/// Ratios of memory, B / A, of the largest block of each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Of the loaded model.
    pub static_ratio: Option<f64>,
    /// At its largest.
    pub peak_ratio: Option<f64>,
}

impl Comparison {
    /// Compares B with A.
    ///
    /// # Errors
    /// [`CompareError::NothingInCommon`] when no cell has numbers in both and none failed in B.
    pub fn of(
        mut a: Measured,
        mut b: Measured,
        question: Question,
        quality_margins: QualityMargins,
    ) -> Result<Self, CompareError> {
        let mut warnings = Vec::new();
        for (name, measured) in [("A", &a), ("B", &b)] {
            warnings.extend(
                measured
                    .warnings
                    .iter()
                    .map(|warning| format!("{name}: {warning}")),
            );
        }
        let mut forgotten = Vec::new();
        if !a.cells.is_empty() && !b.cells.is_empty() {
            forgotten.extend(a.forget_columns_unknown_to(&b));
            forgotten.extend(b.forget_columns_unknown_to(&a));
        }
        for column in forgotten {
            warnings.push(format!(
                "one side does not say its {column}: cells are matched without it"
            ));
        }

        let mut pairs = Vec::new();
        let mut only_in_a = Vec::new();
        for cell in a.cells.iter().filter(|cell| !cell.blocks.is_empty()) {
            let partner = b.cells.iter().find(|partner| partner.key == cell.key);
            match partner.filter(|partner| !partner.blocks.is_empty()) {
                Some(partner) => pairs.push(Pair::of(cell, partner, question.margin)),
                None => only_in_a.push(missing(cell, partner)),
            }
        }
        let only_in_b: Vec<Missing> = b
            .cells
            .iter()
            .filter(|cell| !cell.blocks.is_empty())
            .filter_map(|cell| {
                let partner = a.cells.iter().find(|partner| partner.key == cell.key);
                let alone = partner.is_none_or(|partner| partner.blocks.is_empty());
                alone.then(|| missing(cell, partner))
            })
            .collect();
        let mut quality_pairs = Vec::new();
        let mut quality_only_in_a = Vec::new();
        for cell in &a.quality {
            let Ok(of_a) = &cell.tokens else { continue };
            match b.quality.iter().find(|partner| partner.key == cell.key) {
                Some(QualityCell { tokens: Ok(of_b), .. }) => {
                    quality_pairs.extend(QualityPair::of(&cell.key, of_a, of_b, quality_margins));
                }
                partner => quality_only_in_a.push(missing_quality(cell, partner)),
            }
        }
        let quality_only_in_b = b
            .quality
            .iter()
            .filter(|cell| cell.tokens.is_ok())
            .map(|cell| (cell, a.quality.iter().find(|partner| partner.key == cell.key)))
            .filter(|(_, partner)| partner.is_none_or(|partner| partner.tokens.is_err()))
            .map(|(cell, partner)| missing_quality(cell, partner))
            .collect();
        let failed = |missing: &[Missing]| missing.iter().any(|missing| missing.failure.is_some());
        if pairs.is_empty() && quality_pairs.is_empty() && !failed(&only_in_a) && !failed(&quality_only_in_a)
        {
            let first = |measured: &Measured| {
                let timed = measured.cells.first().map(|cell| &cell.key);
                let first = timed.or(measured.quality.first().map(|cell| &cell.key));
                first.map(ToString::to_string).unwrap_or_default()
            };
            return Err(CompareError::NothingInCommon {
                first_a: first(&a),
                first_b: first(&b),
                a: a.path,
                b: b.path,
            });
        }
        let tested = pairs.iter().filter(|pair| pair.test.is_ok()).count()
            + quality_pairs.iter().filter(|pair| pair.test.is_ok()).count();
        let (cells, quality) = judge(pairs, quality_pairs, question);
        Ok(Self {
            tested,
            cells,
            quality,
            quality_margins,
            quality_only_in_a,
            quality_only_in_b,
            a: a.path,
            b: b.path,
            margin: question.margin,
            alpha: question.alpha,
            only_in_a,
            only_in_b,
            warnings,
        })
    }

    /// Number of cells with a verdict.
    pub fn count(&self, verdict: Effect) -> usize {
        self.cells.iter().filter(|cell| cell.verdict == verdict).count()
    }

    /// Number of quality metrics with a verdict.
    pub fn count_quality(&self, verdict: QualityVerdict) -> usize {
        self.quality
            .iter()
            .filter(|metric| metric.verdict == verdict)
            .count()
    }

    /// Number of cells that have numbers in A and failed in B.
    pub fn failed_in_b(&self) -> usize {
        self.only_in_a
            .iter()
            .chain(&self.quality_only_in_a)
            .filter(|missing| missing.failure.is_some())
            .count()
    }
}

fn missing(cell: &MeasuredCell, partner: Option<&MeasuredCell>) -> Missing {
    Missing {
        cell: cell.key.clone(),
        failure: partner.and_then(|partner| partner.failures.first().cloned()),
    }
}

fn missing_quality(cell: &QualityCell, partner: Option<&QualityCell>) -> Missing {
    Missing {
        cell: cell.key.clone(),
        failure: partner.and_then(|partner| partner.tokens.as_ref().err().cloned()),
    }
}

/// Two measurements of a cell, with the test or why there is none.
struct Pair<'a> {
    a: &'a MeasuredCell,
    b: &'a MeasuredCell,
    blocks: usize,
    statistic: Statistic,
    test: Result<PairedTest, String>,
}

impl<'a> Pair<'a> {
    fn of(a: &'a MeasuredCell, b: &'a MeasuredCell, margin: f64) -> Self {
        let all_kept = a
            .blocks
            .values()
            .chain(b.blocks.values())
            .all(|block| block.median_seconds.is_some());
        let statistic = if all_kept {
            Statistic::Median
        } else {
            Statistic::Mean
        };
        let common = || {
            a.blocks
                .iter()
                .filter_map(|(repeat, of_a)| Some((of_a, b.blocks.get(repeat)?)))
        };
        let log_ratios: Vec<f64> = common()
            .map(|(a, b)| (seconds(b, statistic) / seconds(a, statistic)).ln())
            .collect();
        let test = match common().find_map(|(a, b)| different_work(a, b)) {
            Some(reason) => Err(reason),
            None => PairedTest::of(&log_ratios, margin).ok_or_else(|| {
                format!(
                    "{} paired blocks, at least {MINIMUM_PAIRS} are needed: run both with more --num-repeats",
                    log_ratios.len()
                )
            }),
        };
        Self {
            a,
            b,
            blocks: log_ratios.len(),
            statistic,
            test,
        }
    }

    fn speed(&self, cell: &MeasuredCell) -> Speed {
        let middle = |value: &dyn Fn(&Block) -> Option<f64>| {
            median(&cell.blocks.values().filter_map(value).collect::<Vec<_>>())
        };
        Speed {
            batch_ms: middle(&|block| Some(seconds(block, self.statistic) * 1e3)),
            tokens_per_s: middle(&|block| block.tokens_per_s),
            bases_per_s: middle(&|block| block.bases_per_s),
        }
    }

    fn memory(&self) -> Memory {
        let ratio = |value: fn(&Block) -> Option<f64>| {
            let largest = |cell: &MeasuredCell| cell.blocks.values().filter_map(value).reduce(f64::max);
            let (a, b) = largest(self.a).zip(largest(self.b))?;
            (a > 0.0).then(|| b / a)
        };
        Memory {
            static_ratio: ratio(|block| block.static_gb),
            peak_ratio: ratio(|block| block.peak_gb),
        }
    }
}

fn seconds(block: &Block, statistic: Statistic) -> f64 {
    match statistic {
        Statistic::Median => block.median_seconds.unwrap_or(block.mean_seconds),
        Statistic::Mean => block.mean_seconds,
    }
}

/// Why two blocks cannot be compared: their batches do not hold the same.
fn different_work(a: &Block, b: &Block) -> Option<String> {
    let (a, b) = a.tokens_per_batch.zip(b.tokens_per_batch)?;
    let differs = (a - b).abs() > WORK_TOLERANCE * a.max(b);
    differs.then(|| {
        format!("not the same work: {a:.1} tokens a batch in A, {b:.1} in B; measure both with the same data")
    })
}

/// The verdicts, with p-values corrected over all ratios that were tested.
fn judge(
    pairs: Vec<Pair<'_>>,
    quality: Vec<QualityPair>,
    question: Question,
) -> (Vec<ComparedCell>, Vec<ComparedQuality>) {
    let corrected = |p_value: fn(&PairedTest) -> f64| {
        let timed = pairs.iter().filter_map(|pair| pair.test.as_ref().ok());
        let tests = timed.chain(quality.iter().filter_map(|pair| pair.test.as_ref().ok()));
        holm(&tests.map(p_value).collect::<Vec<_>>()).into_iter()
    };
    let mut p_values = corrected(|test| test.p_difference)
        .zip(corrected(|test| test.p_equivalence))
        .collect::<Vec<_>>()
        .into_iter();
    let mut cells = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let (verdict, reason, time) = match &pair.test {
            Err(reason) => (Effect::Ambiguous, Some(reason.clone()), None),
            Ok(test) => {
                let (p_difference, p_equivalence) = p_values.next().unwrap_or((1.0, 1.0));
                let verdict = test.effect(p_difference, p_equivalence, question);
                let reason = (verdict == Effect::Ambiguous).then(|| ambiguity(test, p_difference, question));
                let time = TestedRatio {
                    ratio: test.ratio(),
                    interval: test.ratio_interval,
                    p_difference,
                    p_equivalence,
                };
                (verdict, reason, Some(time))
            }
        };
        cells.push(ComparedCell {
            cell: pair.a.key.clone(),
            verdict,
            reason,
            blocks: pair.blocks,
            unpaired_a: pair.a.blocks.len() - pair.blocks,
            unpaired_b: pair.b.blocks.len() - pair.blocks,
            statistic: pair.statistic,
            time,
            a: pair.speed(pair.a),
            b: pair.speed(pair.b),
            memory: pair.memory(),
        });
    }
    let quality = quality.into_iter().map(|pair| {
        let corrected = pair.test.is_ok().then(|| p_values.next()).flatten();
        pair.judge(corrected, question.alpha)
    });
    (cells, quality.collect())
}

/// What is open, and what to do about it.
fn ambiguity(test: &PairedTest, p_difference: f64, question: Question) -> String {
    let margin = percent(question.margin);
    if p_difference <= question.alpha {
        let direction = if test.mean_log_ratio > 0.0 {
            "slower"
        } else {
            "faster"
        };
        format!("{direction}, but whether by more than {margin} % is open; more blocks would tell")
    } else {
        format!(
            "neither a difference nor equality within {margin} % can be shown; more blocks or a quieter machine would tell"
        )
    }
}
