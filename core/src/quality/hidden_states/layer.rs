use super::moments::Moments;
use super::sketch::QuantileSketch;
use crate::results::{DistributionStatistics, HiddenStateQuality};

/// The name of a hidden state in tables.
pub(super) fn name(index: usize) -> String {
    format!("hidden_{index}")
}

/// One hidden state, compared token by token.
pub(super) struct LayerComparison {
    index: usize,
    reference: Side,
    mode: Side,
    values: u64,
    /// Σ reference², Σ (reference − mode)².
    signal: f64,
    noise: f64,
    cosine_sum: f64,
    cosine_min: f64,
    cosines: u64,
    non_finite: u64,
}

/// The values of one model.
struct Side {
    moments: Moments,
    sketch: QuantileSketch,
}

impl Side {
    fn new() -> Self {
        Self {
            moments: Moments::default(),
            sketch: QuantileSketch::new(),
        }
    }

    fn add(&mut self, values: &[f32]) {
        self.moments.merge(&Moments::of(values));
        self.sketch.add(values);
    }

    fn max_inf_norm(&self) -> f64 {
        self.sketch.max().abs().max(self.sketch.min().abs())
    }

    fn distribution(&self, layer: String, kind: &str) -> DistributionStatistics {
        DistributionStatistics {
            layer,
            kind: kind.to_owned(),
            mean: self.moments.mean(),
            std: self.moments.std(),
            min: self.sketch.min(),
            max: self.sketch.max(),
            median: self.sketch.quantile(0.5),
            q25: self.sketch.quantile(0.25),
            q75: self.sketch.quantile(0.75),
            skewness: self.moments.skewness(),
            kurtosis: self.moments.kurtosis(),
        }
    }
}

impl LayerComparison {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            reference: Side::new(),
            mode: Side::new(),
            values: 0,
            signal: 0.0,
            noise: 0.0,
            cosine_sum: 0.0,
            cosine_min: f64::INFINITY,
            cosines: 0,
            non_finite: 0,
        }
    }

    /// Takes the states of a sequence, `[tokens, hidden]` each.
    pub(super) fn add(&mut self, reference: &[f32], mode: &[f32], hidden: usize) {
        for (reference, mode) in reference
            .chunks_exact(hidden.max(1))
            .zip(mode.chunks_exact(hidden.max(1)))
        {
            let non_finite = count_non_finite(reference) + count_non_finite(mode);
            if non_finite > 0 {
                self.non_finite += non_finite;
                continue;
            }
            self.add_token(reference, mode);
        }
    }

    fn add_token(&mut self, reference: &[f32], mode: &[f32]) {
        self.reference.add(reference);
        self.mode.add(mode);
        let (mut signal, mut other, mut product, mut noise) = (0.0, 0.0, 0.0, 0.0);
        for (&a, &b) in reference.iter().zip(mode) {
            let (a, b) = (f64::from(a), f64::from(b));
            signal += a * a;
            other += b * b;
            product += a * b;
            noise += (a - b) * (a - b);
        }
        self.values += reference.len() as u64;
        self.signal += signal;
        self.noise += noise;
        let norms = signal.sqrt() * other.sqrt();
        if norms > 0.0 {
            let cosine = product / norms;
            self.cosine_sum += cosine;
            self.cosine_min = self.cosine_min.min(cosine);
            self.cosines += 1;
        }
    }

    pub(super) fn quality(&self) -> HiddenStateQuality {
        let cosines = self.cosines > 0;
        HiddenStateQuality {
            index: self.index,
            cosine_mean: cosines.then(|| self.cosine_sum / self.cosines as f64),
            cosine_min: cosines.then_some(self.cosine_min),
            mse: self.noise / self.values as f64,
            snr_db: 10.0 * (self.signal / self.noise).log10(),
            kurtosis: self.mode.moments.kurtosis(),
            reference_kurtosis: self.reference.moments.kurtosis(),
            max_inf_norm: self.mode.max_inf_norm(),
            reference_max_inf_norm: self.reference.max_inf_norm(),
            non_finite: self.non_finite,
        }
    }

    pub(super) fn distributions(&self) -> [DistributionStatistics; 2] {
        [
            self.reference.distribution(name(self.index), "standard_stats"),
            self.mode.distribution(name(self.index), "quantized_stats"),
        ]
    }
}

fn count_non_finite(values: &[f32]) -> u64 {
    values.iter().map(|value| u64::from(!value.is_finite())).sum()
}
