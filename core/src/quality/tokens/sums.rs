//! What positions add up to.

use std::ops::{Index, IndexMut};

use super::pair::{Compared, Prediction};

/// A sum over positions. Counts are exact in f64 up to 2^53.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Positions,
    Predicted,
    Bases,
    Kl,
    KlReverse,
    Js,
    SameTop1,
    SameTop5,
    DeltaP,
    DeltaPSquared,
    Nll,
    ReferenceNll,
    Correct,
    ReferenceCorrect,
    SlidingPredicted,
    SlidingNll,
    SlidingReferenceNll,
}

const COUNT: usize = Of::SlidingReferenceNll as usize + 1;

/// All sums over some positions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums([f64; COUNT]);

impl Index<Of> for Sums {
    type Output = f64;

    fn index(&self, of: Of) -> &f64 {
        &self.0[of as usize]
    }
}

impl IndexMut<Of> for Sums {
    fn index_mut(&mut self, of: Of) -> &mut f64 {
        &mut self.0[of as usize]
    }
}

impl Sums {
    /// Adds `times` times the other's positions.
    pub(super) fn add(&mut self, other: &Self, times: f64) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum += times * value;
        }
    }

    pub(super) fn add_position(&mut self, compared: &Compared) {
        self[Of::Positions] += 1.0;
        self[Of::Kl] += compared.kl;
        self[Of::KlReverse] += compared.kl_reverse;
        self[Of::Js] += compared.js;
        self[Of::SameTop1] += f64::from(compared.same_top1);
        self[Of::SameTop5] += f64::from(compared.same_top5);
        if let Some(prediction) = &compared.prediction {
            let delta_p = prediction.delta_p();
            self[Of::Predicted] += 1.0;
            self[Of::DeltaP] += delta_p;
            self[Of::DeltaPSquared] += delta_p * delta_p;
            self[Of::Nll] += prediction.nll;
            self[Of::ReferenceNll] += prediction.reference_nll;
            self[Of::Correct] += f64::from(prediction.correct);
            self[Of::ReferenceCorrect] += f64::from(prediction.reference_correct);
        }
    }

    /// Mean of a sum over positions; NaN without any.
    pub(super) fn a_position(&self, of: Of) -> f64 {
        self[of] / self[Of::Positions]
    }

    /// Mean of a sum over predicted tokens; NaN without any.
    pub(super) fn a_prediction(&self, of: Of) -> f64 {
        self[of] / self[Of::Predicted]
    }

    pub(super) fn count(&self, of: Of) -> u64 {
        self[of] as u64
    }
}

/// Moments of both sides' nll over predicted tokens, taken about the first token's to keep digits, and McNemar's counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Predictions {
    origin: Option<(f64, f64)>,
    count: f64,
    mode: f64,
    reference: f64,
    mode_squared: f64,
    reference_squared: f64,
    product: f64,
    pub(super) only_mode: u64,
    pub(super) only_reference: u64,
}

impl Predictions {
    pub(super) fn add(&mut self, prediction: &Prediction) {
        let (mode_origin, reference_origin) = *self
            .origin
            .get_or_insert((prediction.nll, prediction.reference_nll));
        let (mode, reference) = (
            prediction.nll - mode_origin,
            prediction.reference_nll - reference_origin,
        );
        self.count += 1.0;
        self.mode += mode;
        self.reference += reference;
        self.mode_squared += mode * mode;
        self.reference_squared += reference * reference;
        self.product += mode * reference;
        self.only_mode += u64::from(prediction.correct && !prediction.reference_correct);
        self.only_reference += u64::from(prediction.reference_correct && !prediction.correct);
    }

    /// Central second moments (mode, reference, covariance), with n − 1.
    fn covariances(&self) -> (f64, f64, f64) {
        let about =
            |product: f64, one: f64, other: f64| (product - one * other / self.count) / (self.count - 1.0);
        (
            about(self.mode_squared, self.mode, self.mode),
            about(self.reference_squared, self.reference, self.reference),
            about(self.product, self.mode, self.reference),
        )
    }

    /// Standard error of the mean of nll − reference's nll: √((var + var' − 2 cov) / n).
    pub(super) fn standard_error_of_difference(&self) -> f64 {
        let (mode, reference, covariance) = self.covariances();
        ((mode + reference - 2.0 * covariance).max(0.0) / self.count).sqrt()
    }

    /// Pearson's correlation; NaN where a side does not vary.
    pub(super) fn correlation(&self) -> f64 {
        let (mode, reference, covariance) = self.covariances();
        (covariance / (mode * reference).sqrt()).clamp(-1.0, 1.0)
    }
}
