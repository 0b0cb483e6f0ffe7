use super::pair::TokenComparison;
use super::sums::{Of, Predictions, Sums};

/// Ends of the ranges of the reference's confidence.
pub(super) const CONFIDENCE_ENDS: [f64; 8] = [0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95, 1.0];
pub(super) const CONFIDENCE_GROUPS: usize = CONFIDENCE_ENDS.len() - 1;
/// Ranges of the share of G and C, 10 % each.
pub(super) const GC_GROUPS: usize = 10;

/// What is known of a sequence besides its logits.
#[derive(Clone, Copy, Debug)]
pub struct SequenceInfo<'a> {
    /// Its index in the data.
    pub index: usize,
    /// The genome it comes from.
    pub genome: &'a str,
    /// Share of G and C among its bases that are not N, see [`gc_share`]; `None` without any.
    pub gc: Option<f64>,
    /// Bases that its tokens stand for.
    pub bases: usize,
}

/// The share of G and C among the bases A, C, G and T; `None` without any of these.
pub fn gc_share(bases: &str) -> Option<f64> {
    let count = |wanted: &[u8]| bases.bytes().filter(|base| wanted.contains(base)).count() as f64;
    let known = count(b"ACGT");
    (known > 0.0).then(|| count(b"GC") / known)
}

/// nll over sliding windows of one sequence, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlidingNll {
    /// Predicted tokens.
    pub predicted: u64,
    /// Sum of the mode's.
    pub nll: f64,
    /// Sum of the reference's.
    pub reference_nll: f64,
}

/// A sequence taken up.
#[derive(Clone, Debug)]
pub(super) struct SequenceSums {
    pub(super) index: usize,
    /// Index of the genome, in the order in which genomes came.
    pub(super) genome: usize,
    pub(super) gc: Option<f64>,
    pub(super) total: Sums,
    /// Positions and sum of KL by the reference's confidence.
    pub(super) confidence: [[f64; 2]; CONFIDENCE_GROUPS],
}

impl SequenceSums {
    pub(super) fn new(info: SequenceInfo<'_>, genome: usize, sliding: Option<SlidingNll>) -> Self {
        let mut total = Sums::default();
        total[Of::Bases] = info.bases as f64;
        if let Some(sliding) = sliding {
            total[Of::SlidingPredicted] = sliding.predicted as f64;
            total[Of::SlidingNll] = sliding.nll;
            total[Of::SlidingReferenceNll] = sliding.reference_nll;
        }
        Self {
            index: info.index,
            genome,
            gc: info.gc,
            total,
            confidence: [[0.0; 2]; CONFIDENCE_GROUPS],
        }
    }

    pub(super) fn gc_group(&self) -> Option<usize> {
        self.gc
            .map(|gc| ((gc * GC_GROUPS as f64) as usize).min(GC_GROUPS - 1))
    }
}

pub(super) fn confidence_group(confidence: f64) -> usize {
    CONFIDENCE_ENDS[1..CONFIDENCE_GROUPS].partition_point(|&end| end <= confidence)
}

/// What positions that are not in any sum count for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excluded {
    pub(super) positions: u64,
    pub(super) logits: u64,
}

impl Excluded {
    pub(super) fn add(&mut self, position: &TokenComparison) {
        self.positions += u64::from(position.compared.is_none());
        self.logits += u64::from(position.non_finite);
    }
}

/// Sums over all sequences, whole and by range of confidence.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) confidence: [Sums; CONFIDENCE_GROUPS],
    pub(super) predictions: Predictions,
    pub(super) excluded: Excluded,
}
