//! The token-level statistics as columns of `quality_metrics.csv`, after those of [`QualityRow`](super::QualityRow).

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{Distribution, Estimate, TokenQuality};

/// Names and values of the columns, in their order; a row of another layer has no values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TokenColumns(Vec<(&'static str, Option<f64>)>);

/// The names of an estimate's interval.
macro_rules! interval {
    ($name:literal) => {
        [concat!($name, "_low"), concat!($name, "_high")]
    };
}

/// A column and those of its interval.
macro_rules! with_interval {
    ($name:literal, $quantity:literal) => {
        (
            concat!($name, $quantity),
            [
                concat!($name, $quantity, "_low"),
                concat!($name, $quantity, "_high"),
            ],
        )
    };
}

/// The columns of a distribution: its mean, then its quantiles in the order of their probabilities.
macro_rules! distribution {
    ($name:literal) => {
        [
            with_interval!($name, "_mean"),
            with_interval!($name, "_min"),
            with_interval!($name, "_p0_1"),
            with_interval!($name, "_p1"),
            with_interval!($name, "_p5"),
            with_interval!($name, "_p10"),
            with_interval!($name, "_p25"),
            with_interval!($name, "_median"),
            with_interval!($name, "_p75"),
            with_interval!($name, "_p90"),
            with_interval!($name, "_p95"),
            with_interval!($name, "_p99"),
            with_interval!($name, "_p99_9"),
            with_interval!($name, "_max"),
        ]
    };
}

/// Columns that [`QualityRow`](super::QualityRow) has already.
const ELSEWHERE: [&str; 4] = ["token_kl_mean", "token_kl_median", "token_kl_p99", "token_kl_max"];

impl TokenColumns {
    pub(super) fn new(tokens: &TokenQuality) -> Self {
        let mut columns = Self(Vec::new());
        columns.distribution(distribution!("token_kl"), &tokens.kl);
        columns.distribution(distribution!("token_kl_reverse"), &tokens.kl_reverse);
        columns.distribution(distribution!("token_js"), &tokens.js);
        columns.distribution(distribution!("delta_p"), &tokens.delta_p);
        columns.estimate("delta_p_rms", interval!("delta_p_rms"), &tokens.delta_p_rms);
        columns.interval(interval!("same_top1"), &tokens.same_top1);
        columns.estimate("same_top5", interval!("same_top5"), &tokens.same_top5);
        columns.interval(interval!("perplexity"), &tokens.perplexity);
        columns.estimate(
            "ln_perplexity_ratio",
            interval!("ln_perplexity_ratio"),
            &tokens.ln_perplexity_ratio,
        );
        columns.value(
            "ln_perplexity_ratio_se",
            tokens.ln_perplexity_ratio_standard_error,
        );
        columns.value("nll_correlation", tokens.nll_correlation);
        columns.interval(interval!("next_token_accuracy"), &tokens.next_token_accuracy);
        columns.value("reference_accuracy", tokens.reference_accuracy);
        columns.estimate(
            "accuracy_difference",
            interval!("accuracy_difference"),
            &tokens.accuracy_difference,
        );
        columns.value("only_mode_correct", tokens.only_mode_correct as f64);
        columns.value("only_reference_correct", tokens.only_reference_correct as f64);
        columns.value("mcnemar_p", tokens.mcnemar_p);
        columns.interval(interval!("bits_per_base"), &tokens.bits_per_base);
        columns.estimate("token_kl_macro", interval!("token_kl_macro"), &tokens.kl_macro);
        columns.estimate(
            "perplexity_macro",
            interval!("perplexity_macro"),
            &tokens.perplexity_macro,
        );
        let sliding = tokens.sliding.unwrap_or_default();
        let asked = tokens.sliding.is_some();
        let if_asked = |value: f64| if asked { value } else { f64::NAN };
        columns.value("perplexity_sliding", if_asked(sliding.perplexity.value));
        columns.interval(interval!("perplexity_sliding"), &sliding.perplexity);
        columns.value(
            "reference_perplexity_sliding",
            if_asked(sliding.reference_perplexity),
        );
        columns.value("context_len", if_asked(sliding.context_len as f64));
        columns.value("stride", if_asked(sliding.stride as f64));
        columns
    }

    /// "Not a number" is no value; an infinite one is.
    fn value(&mut self, name: &'static str, value: f64) {
        self.0.push((name, Some(value).filter(|value| !value.is_nan())));
    }

    fn interval(&mut self, [low, high]: [&'static str; 2], estimate: &Estimate) {
        self.0.push((low, estimate.interval.map(|interval| interval.low)));
        self.0
            .push((high, estimate.interval.map(|interval| interval.high)));
    }

    fn estimate(&mut self, name: &'static str, interval: [&'static str; 2], estimate: &Estimate) {
        self.value(name, estimate.value);
        self.interval(interval, estimate);
    }

    fn distribution(
        &mut self,
        [mean, quantiles @ ..]: [(&'static str, [&'static str; 2]); 1 + Distribution::PROBABILITIES.len()],
        distribution: &Distribution,
    ) {
        self.estimate(mean.0, mean.1, &distribution.mean);
        let named = quantiles.into_iter().zip(Distribution::PROBABILITIES);
        for (((name, ends), probability), estimate) in named.zip(distribution.quantiles()) {
            self.value(name, estimate.value);
            // The smallest and the largest value have no interval.
            if probability > 0.0 && probability < 1.0 {
                self.interval(ends, &estimate);
            }
        }
        self.0.retain(|(name, _)| !ELSEWHERE.contains(name));
    }
}

impl Default for TokenColumns {
    fn default() -> Self {
        let mut columns = Self::new(&TokenQuality::default());
        for (_, value) in &mut columns.0 {
            *value = None;
        }
        columns
    }
}

impl Serialize for TokenColumns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut columns = serializer.serialize_struct("TokenColumns", self.0.len())?;
        for (name, value) in &self.0 {
            columns.serialize_field(name, value)?;
        }
        columns.end()
    }
}
