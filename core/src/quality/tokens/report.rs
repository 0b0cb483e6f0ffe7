//! From sums to the numbers of the record, with intervals.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Generator;

use super::sequence::{CONFIDENCE_ENDS, CONFIDENCE_GROUPS, GC_GROUPS, SequenceSums, Totals};
use super::sums::{Of, Sums};
use crate::quality::checks;
use crate::results::{Distribution, Estimate, SequenceQuality, SlidingPerplexity, TokenGroup, TokenQuality};
use crate::statistics::{RESAMPLES, cluster_intervals, mcnemar};

/// What [`TokenAccumulator`](super::TokenAccumulator) ends in.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenReport {
    /// The numbers.
    pub quality: TokenQuality,
    /// Doubts about them.
    pub warnings: Vec<String>,
}

/// Everything that the report is made from.
pub(super) struct Parts {
    pub(super) genomes: Vec<String>,
    pub(super) sequences: Vec<SequenceSums>,
    pub(super) totals: Totals,
    /// Quantiles of KL, reverse KL, JS and Δp.
    pub(super) quantiles: [[Estimate; Distribution::PROBABILITIES.len()]; 4],
    pub(super) seed: u64,
}

/// A number that has an interval.
#[derive(Clone, Copy)]
enum Statistic {
    Kl,
    KlReverse,
    Js,
    DeltaP,
    DeltaPRms,
    SameTop1,
    SameTop5,
    Perplexity,
    LnPerplexityRatio,
    Accuracy,
    AccuracyDifference,
    BitsPerBase,
    KlMacro,
    PerplexityMacro,
    PerplexitySliding,
}

const TOTAL_STATISTICS: usize = Statistic::PerplexitySliding as usize + 1;
const GROUPS: usize = CONFIDENCE_GROUPS + GC_GROUPS;
const STATISTICS: usize = TOTAL_STATISTICS + GROUPS;

/// What is drawn together: a genome, or a sequence where all are of one genome.
#[derive(Clone, Default)]
struct Cluster {
    total: Sums,
    /// Positions and sum of KL, by the reference's confidence, then by GC.
    groups: [[f64; 2]; GROUPS],
}

impl Cluster {
    fn add(&mut self, sequence: &SequenceSums) {
        self.total.add(&sequence.total, 1.0);
        for (group, sums) in self.groups.iter_mut().zip(sequence.confidence) {
            group[0] += sums[0];
            group[1] += sums[1];
        }
        if let Some(gc) = sequence.gc_group() {
            let group = &mut self.groups[CONFIDENCE_GROUPS + gc];
            group[0] += sequence.total[Of::Positions];
            group[1] += sequence.total[Of::Kl];
        }
    }
}

/// The statistics of clusters of which the i-th is there `times[i]` times.
fn statistics(clusters: &[Cluster], times: &[u32]) -> [f64; STATISTICS] {
    let mut total = Sums::default();
    let mut groups = [[0.0; 2]; GROUPS];
    let (mut kl_macro, mut nll_macro, mut drawn) = (0.0, 0.0, 0.0);
    for (cluster, &times) in clusters.iter().zip(times).filter(|&(_, &times)| times > 0) {
        let times = f64::from(times);
        total.add(&cluster.total, times);
        for (sum, values) in groups.iter_mut().zip(cluster.groups) {
            sum[0] += times * values[0];
            sum[1] += times * values[1];
        }
        kl_macro += times * cluster.total.a_position(Of::Kl);
        nll_macro += times * cluster.total.a_prediction(Of::Nll);
        drawn += times;
    }
    let mut statistics = [f64::NAN; STATISTICS];
    let mut set = |statistic: Statistic, value| statistics[statistic as usize] = value;
    set(Statistic::Kl, total.a_position(Of::Kl));
    set(Statistic::KlReverse, total.a_position(Of::KlReverse));
    set(Statistic::Js, total.a_position(Of::Js));
    set(Statistic::DeltaP, total.a_prediction(Of::DeltaP));
    set(Statistic::DeltaPRms, total.a_prediction(Of::DeltaPSquared).sqrt());
    set(Statistic::SameTop1, total.a_position(Of::SameTop1));
    set(Statistic::SameTop5, total.a_position(Of::SameTop5));
    set(Statistic::Perplexity, total.a_prediction(Of::Nll).exp());
    let ln_ratio = (total[Of::Nll] - total[Of::ReferenceNll]) / total[Of::Predicted];
    set(Statistic::LnPerplexityRatio, ln_ratio);
    set(Statistic::Accuracy, total.a_prediction(Of::Correct));
    let accuracy_difference = (total[Of::Correct] - total[Of::ReferenceCorrect]) / total[Of::Predicted];
    set(Statistic::AccuracyDifference, accuracy_difference);
    if total[Of::Bases] > 0.0 && total[Of::Predicted] > 0.0 {
        let bits = total[Of::Nll] / std::f64::consts::LN_2;
        set(Statistic::BitsPerBase, bits / total[Of::Bases]);
    }
    set(Statistic::KlMacro, kl_macro / drawn);
    set(Statistic::PerplexityMacro, (nll_macro / drawn).exp());
    let sliding = total[Of::SlidingNll] / total[Of::SlidingPredicted];
    set(Statistic::PerplexitySliding, sliding.exp());
    for (statistic, [positions, kl]) in statistics[TOTAL_STATISTICS..].iter_mut().zip(groups) {
        *statistic = kl / positions;
    }
    statistics
}

impl Parts {
    pub(super) fn report(self) -> TokenReport {
        let genomes = self.by(|sequence| sequence.genome, self.genomes.len());
        let (unit, clusters) = if genomes.len() == 1 {
            let sequences = self.sequences.iter().map(|sequence| {
                let mut cluster = Cluster::default();
                cluster.add(sequence);
                cluster
            });
            ("sequence", sequences.collect())
        } else {
            ("genome", genomes.clone())
        };
        // Macro averages are over genomes, whatever is drawn.
        let values = statistics(&genomes, &vec![1; genomes.len()]);
        let mut generator = Generator::seed_from_u64(self.seed);
        let intervals = cluster_intervals(clusters.len(), RESAMPLES, &mut generator, |drawn| {
            statistics(&clusters, drawn)
        });
        let estimate_at = |index: usize| Estimate {
            value: values[index],
            interval: intervals[index].filter(|_| values[index].is_finite()),
        };
        let estimate = |statistic: Statistic| estimate_at(statistic as usize);
        let over_genomes = |statistic: Statistic| Estimate {
            interval: estimate(statistic).interval.filter(|_| unit == "genome"),
            ..estimate(statistic)
        };
        let distribution =
            |statistic, index: usize| Distribution::new(estimate(statistic), self.quantiles[index]);

        let mut total = Sums::default();
        for genome in &genomes {
            total.add(&genome.total, 1.0);
        }
        let predictions = &self.totals.predictions;
        let quality = TokenQuality {
            positions: total.count(Of::Positions),
            predicted: total.count(Of::Predicted),
            excluded: self.totals.excluded.positions,
            non_finite: self.totals.excluded.logits,
            bases: total.count(Of::Bases),
            interval_unit: unit.to_owned(),
            kl: distribution(Statistic::Kl, 0),
            kl_reverse: distribution(Statistic::KlReverse, 1),
            js: distribution(Statistic::Js, 2),
            delta_p: distribution(Statistic::DeltaP, 3),
            delta_p_rms: estimate(Statistic::DeltaPRms),
            same_top1: estimate(Statistic::SameTop1),
            same_top5: estimate(Statistic::SameTop5),
            perplexity: estimate(Statistic::Perplexity),
            reference_perplexity: total.a_prediction(Of::ReferenceNll).exp(),
            ln_perplexity_ratio: estimate(Statistic::LnPerplexityRatio),
            ln_perplexity_ratio_standard_error: predictions.standard_error_of_difference(),
            nll_correlation: predictions.correlation(),
            next_token_accuracy: estimate(Statistic::Accuracy),
            reference_accuracy: total.a_prediction(Of::ReferenceCorrect),
            accuracy_difference: estimate(Statistic::AccuracyDifference),
            only_mode_correct: predictions.only_mode,
            only_reference_correct: predictions.only_reference,
            mcnemar_p: mcnemar(predictions.only_mode, predictions.only_reference),
            bits_per_base: estimate(Statistic::BitsPerBase),
            kl_macro: over_genomes(Statistic::KlMacro),
            perplexity_macro: over_genomes(Statistic::PerplexityMacro),
            sliding: (total[Of::SlidingPredicted] > 0.0).then(|| SlidingPerplexity {
                perplexity: estimate(Statistic::PerplexitySliding),
                reference_perplexity: (total[Of::SlidingReferenceNll] / total[Of::SlidingPredicted]).exp(),
                predicted: total.count(Of::SlidingPredicted),
                ..SlidingPerplexity::default()
            }),
            by_confidence: self.by_confidence(|group| estimate_at(TOTAL_STATISTICS + group)),
            by_gc: self.by_gc(|group| estimate_at(TOTAL_STATISTICS + CONFIDENCE_GROUPS + group)),
            by_genome: self.by_genome(&genomes),
            sequences: self.sequences.iter().map(sequence_quality).collect(),
        };
        let warnings = checks::tokens(&quality);
        TokenReport { quality, warnings }
    }

    /// Sequences put together by what `key` says, from 0 to `count`.
    fn by(&self, key: impl Fn(&SequenceSums) -> usize, count: usize) -> Vec<Cluster> {
        let mut clusters = vec![Cluster::default(); count];
        for sequence in &self.sequences {
            clusters[key(sequence)].add(sequence);
        }
        clusters
    }

    fn by_confidence(&self, kl: impl Fn(usize) -> Estimate) -> Vec<TokenGroup> {
        let groups = self.totals.confidence.iter().enumerate();
        groups
            .filter(|(_, sums)| sums[Of::Positions] > 0.0)
            .map(|(group, sums)| TokenGroup {
                kl: kl(group),
                ..range(CONFIDENCE_ENDS[group], CONFIDENCE_ENDS[group + 1], sums)
            })
            .collect()
    }

    fn by_gc(&self, kl: impl Fn(usize) -> Estimate) -> Vec<TokenGroup> {
        let mut groups = [Sums::default(); GC_GROUPS];
        for sequence in &self.sequences {
            if let Some(group) = sequence.gc_group() {
                groups[group].add(&sequence.total, 1.0);
            }
        }
        let end = |group: usize| group as f64 / GC_GROUPS as f64;
        groups
            .iter()
            .enumerate()
            .filter(|(_, sums)| sums[Of::Positions] > 0.0)
            .map(|(group, sums)| TokenGroup {
                kl: kl(group),
                ..range(end(group), end(group + 1), sums)
            })
            .collect()
    }

    fn by_genome(&self, genomes: &[Cluster]) -> Vec<TokenGroup> {
        let named = self.genomes.iter().zip(genomes);
        named
            .map(|(id, genome)| TokenGroup {
                label: id.clone(),
                ..group(&genome.total)
            })
            .collect()
    }
}

fn range(low: f64, high: f64, sums: &Sums) -> TokenGroup {
    TokenGroup {
        label: format!("{low}-{high}"),
        low: Some(low),
        high: Some(high),
        ..group(sums)
    }
}

fn group(sums: &Sums) -> TokenGroup {
    TokenGroup {
        label: String::new(),
        low: None,
        high: None,
        positions: sums.count(Of::Positions),
        predicted: sums.count(Of::Predicted),
        kl: Estimate {
            value: sums.a_position(Of::Kl),
            interval: None,
        },
        same_top1: sums.a_position(Of::SameTop1),
        perplexity: sums.a_prediction(Of::Nll).exp(),
        reference_perplexity: sums.a_prediction(Of::ReferenceNll).exp(),
        next_token_accuracy: sums.a_prediction(Of::Correct),
    }
}

fn sequence_quality(sequence: &SequenceSums) -> SequenceQuality {
    let total = &sequence.total;
    SequenceQuality {
        sequence: sequence.index,
        genome: sequence.genome,
        gc: sequence.gc,
        positions: total.count(Of::Positions),
        predicted: total.count(Of::Predicted),
        bases: total.count(Of::Bases),
        kl: total.a_position(Of::Kl),
        nll: total.a_prediction(Of::Nll),
        reference_nll: total.a_prediction(Of::ReferenceNll),
        same_top1: total.count(Of::SameTop1),
        correct: total.count(Of::Correct),
        reference_correct: total.count(Of::ReferenceCorrect),
    }
}
