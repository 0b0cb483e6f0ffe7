use super::{QualityError, checks, distribution, histogram};
use crate::results::{DistributionStatistics, LayerQuality};

/// Compares the pooled embeddings of one layer with the reference's, one vector a sequence; each metric is averaged
/// over the sequences where it is defined. Values that are not finite on either side are counted, and both sides are
/// compared without them.
///
/// cosine = a·b / (|a|·|b|); mse = mean((a − b)²); mae = mean|a − b|; snr_db = 10·log10(mean(a²) / mean((a − b)²));
/// pearson = the cosine of the centred vectors; for the two divergences see the module `histogram`.
#[derive(Clone, Debug)]
pub struct LayerAccumulator {
    layer: String,
    sequences: u64,
    non_finite: u64,
    snr_infinite: u64,
    means: [Mean; METRICS.len()],
    reference: Vec<f32>,
    mode: Vec<f32>,
    values: u64,
}

/// Columns of the metrics, in the order of [`Metrics`].
const METRICS: [&str; 7] = [
    "kl_divergence",
    "js_divergence",
    "cosine_similarity",
    "mse",
    "mae",
    "snr_db",
    "pearson_correlation",
];

/// The metrics of one sequence in the order of [`METRICS`]; `None` is undefined.
type Metrics = [Option<f64>; METRICS.len()];

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What [`LayerAccumulator`] ends in.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerReport {
    /// The metrics.
    pub quality: LayerQuality,
    /// Statistics of all finite values, the reference's (`standard_stats`) and the mode's (`quantized_stats`).
    pub distributions: [DistributionStatistics; 2],
    /// Doubts about the numbers.
    pub warnings: Vec<String>,
}

impl LayerAccumulator {
    /// Nothing compared yet. `layer` is the layer's name in the tables: `last`, `second_last`.
    pub fn new(layer: &str) -> Self {
        Self {
            layer: layer.to_owned(),
            sequences: 0,
            non_finite: 0,
            snr_infinite: 0,
            means: [Mean::default(); METRICS.len()],
            reference: Vec::new(),
            mode: Vec::new(),
            values: 0,
        }
    }

    /// Takes the pooled vectors of one sequence.
    ///
    /// # Errors
    /// The vectors differ in length; nothing is taken then.
    pub fn add(&mut self, reference: &[f32], mode: &[f32]) -> Result<(), QualityError> {
        if reference.len() != mode.len() {
            let (layer, reference, mode) = (self.layer.clone(), reference.len(), mode.len());
            return Err(QualityError::VectorLength {
                layer,
                reference,
                mode,
            });
        }
        let finite = |values: &[f32]| -> Vec<f32> {
            values.iter().copied().filter(|value| value.is_finite()).collect()
        };
        let (finite_reference, finite_mode) = (finite(reference), finite(mode));
        self.sequences += 1;
        self.values += (reference.len() + mode.len()) as u64;
        self.non_finite += (reference.len() - finite_reference.len() + mode.len() - finite_mode.len()) as u64;
        self.reference.extend(finite_reference);
        self.mode.extend(finite_mode);

        let (reference, mode): (Vec<f64>, Vec<f64>) = reference
            .iter()
            .zip(mode)
            .filter(|(reference, mode)| reference.is_finite() && mode.is_finite())
            .map(|(&reference, &mode)| (f64::from(reference), f64::from(mode)))
            .unzip();
        self.snr_infinite += u64::from(!reference.is_empty() && reference == mode);
        for (mean, value) in self.means.iter_mut().zip(metrics(&reference, &mode)) {
            if let Some(value) = value {
                mean.sum += value;
                mean.count += 1;
            }
        }
        Ok(())
    }

    /// The numbers over all sequences taken so far.
    pub fn finish(self) -> LayerReport {
        let [kl, js, cosine, mse, mae, snr, pearson] = self.means.map(Mean::value);
        let quality = LayerQuality {
            layer: self.layer.clone(),
            kl_divergence: kl,
            js_divergence: js,
            cosine_similarity: cosine,
            mse,
            mae,
            snr_db: snr,
            snr_infinite: self.snr_infinite,
            pearson_correlation: pearson,
            non_finite: self.non_finite,
        };
        let mut warnings = checks::layer(&quality, self.values);
        warnings.extend(self.undefined());
        let statistics = |kind, values| distribution::statistics(&self.layer, kind, values);
        let distributions = [
            statistics("standard_stats", &self.reference),
            statistics("quantized_stats", &self.mode),
        ];
        LayerReport {
            quality,
            distributions,
            warnings,
        }
    }

    /// One warning for each metric that is undefined for some sequences.
    fn undefined(&self) -> impl Iterator<Item = String> {
        METRICS.iter().zip(self.means).filter_map(|(&metric, mean)| {
            let infinite = if metric == "snr_db" { self.snr_infinite } else { 0 };
            let undefined = self.sequences - mean.count - infinite;
            (undefined > 0).then(|| {
                format!(
                    "layer `{}`: {metric} is undefined for {undefined} of {} sequences, which are left out of its mean",
                    self.layer, self.sequences
                )
            })
        })
    }
}

/// The metrics of two vectors of finite values and equal length.
fn metrics(reference: &[f64], mode: &[f64]) -> Metrics {
    if reference.is_empty() {
        return [None; METRICS.len()];
    }
    let count = reference.len() as f64;
    let difference: Vec<f64> = reference.iter().zip(mode).map(|(a, b)| a - b).collect();
    let mse = dot(&difference, &difference) / count;
    let mae = difference.iter().map(|value| value.abs()).sum::<f64>() / count;
    let snr = 10.0 * (dot(reference, reference) / count / mse).log10();
    let divergences = histogram::divergences(reference, mode);
    [
        divergences.map(|divergences| divergences.kl),
        divergences.map(|divergences| divergences.js),
        cosine(reference, mode),
        Some(mse),
        Some(mae),
        Some(snr).filter(|snr| snr.is_finite()),
        pearson(reference, mode),
    ]
}

/// Undefined where a vector is zero.
fn cosine(a: &[f64], b: &[f64]) -> Option<f64> {
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    (norms > 0.0).then(|| dot(a, b) / norms)
}

/// Undefined where the values of a vector are all equal. Kept within ±1, as scipy does.
fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let varies = |values: &[f64]| values.iter().any(|value| *value != values[0]);
    if !varies(a) || !varies(b) {
        return None;
    }
    let centred = |values: &[f64]| -> Vec<f64> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect()
    };
    cosine(&centred(a), &centred(b)).map(|correlation| correlation.clamp(-1.0, 1.0))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::test_values::{assert_close, pooled};

    fn report(pairs: &[(Vec<f32>, Vec<f32>)]) -> LayerReport {
        let mut accumulator = LayerAccumulator::new("last");
        for (reference, mode) in pairs {
            accumulator.add(reference, mode).unwrap();
        }
        accumulator.finish()
    }

    #[test]
    fn means_over_sequences_are_numpys_and_scipys() {
        let report = report(&[pooled(0), pooled(1)]);
        assert_eq!(report.warnings, Vec::<String>::new());
        let quality = report.quality;
        // From np.histogram, scipy.spatial.distance.jensenshannon, scipy.stats.pearsonr and numpy on the same values.
        assert_close(quality.kl_divergence.unwrap(), 6.036_899_562_481_112);
        assert_close(quality.js_divergence.unwrap(), 0.159_799_026_171_700_08);
        assert_close(quality.cosine_similarity.unwrap(), 0.951_217_013_081_751_9);
        assert_close(quality.mse.unwrap(), 1.494_140_625);
        assert_close(quality.mae.unwrap(), 1.054_687_5);
        assert_close(quality.snr_db.unwrap(), 9.573_238_531_040_1);
        assert_close(quality.pearson_correlation.unwrap(), 0.951_339_399_313_76);
    }

    /// a = (3, 4), b = (4, 3): cos 24/25, mse 1, mae 1, snr 10·log10(12.5), centred vectors opposite.
    #[test]
    fn two_values_by_hand() {
        let quality = report(&[(vec![3.0, 4.0], vec![4.0, 3.0])]).quality;
        assert_close(quality.cosine_similarity.unwrap(), 0.96);
        assert_eq!((quality.mse, quality.mae), (Some(1.0), Some(1.0)));
        assert_close(quality.snr_db.unwrap(), 10.0 * 12.5_f64.log10());
        assert_close(quality.pearson_correlation.unwrap(), -1.0);
        assert!(quality.kl_divergence.unwrap().abs() < 1e-12);
    }

    #[test]
    fn equal_vectors_have_an_infinite_snr() {
        let (reference, mode) = pooled(0);
        let report = report(&[(reference.clone(), reference.clone()), (reference, mode)]);
        assert_eq!(report.quality.snr_infinite, 1);
        assert!(report.quality.snr_db.unwrap().is_finite());
        assert_eq!(report.warnings, Vec::<String>::new());
    }

    #[test]
    fn undefined_metrics_are_left_out_and_told() {
        let (reference, mode) = pooled(0);
        let alone = report(&[(reference.clone(), mode.clone())]);
        let both = report(&[
            (reference.clone(), mode),
            (reference.clone(), vec![1e6; reference.len()]),
        ]);
        assert_eq!(both.quality.kl_divergence, alone.quality.kl_divergence);
        assert_eq!(
            both.quality.pearson_correlation,
            alone.quality.pearson_correlation
        );
        assert_eq!(both.warnings.len(), 3, "{:?}", both.warnings);
        assert_eq!(
            both.warnings[0],
            "layer `last`: kl_divergence is undefined for 1 of 2 sequences, which are left out of its mean"
        );
        let zero = report(&[(vec![0.0; 3], vec![1.0, 2.0, 0.0])]);
        assert_eq!(
            (zero.quality.cosine_similarity, zero.quality.snr_db),
            (None, None)
        );
        assert_eq!(zero.quality.snr_infinite, 0);
    }

    #[test]
    fn values_that_are_not_finite_are_counted_and_left_out() {
        let with = report(&[(vec![3.0, 4.0, f32::NAN, 7.0], vec![4.0, 3.0, 1.0, f32::INFINITY])]);
        let without = report(&[(vec![3.0, 4.0], vec![4.0, 3.0])]);
        assert_eq!(with.quality.non_finite, 2);
        assert_eq!(
            with.quality,
            LayerQuality {
                non_finite: 2,
                ..without.quality
            }
        );
        assert_eq!((with.distributions[0].max, with.distributions[1].min), (7.0, 1.0));
        assert_eq!(
            with.warnings,
            ["layer `last`: 2 of 8 pooled values are not finite; they are left out"]
        );
        let nothing = report(&[(vec![f32::NAN], vec![1.0])]);
        assert_eq!((nothing.quality.mse, nothing.quality.snr_infinite), (None, 0));
    }

    #[test]
    fn vectors_of_different_length_are_refused() {
        let error = LayerAccumulator::new("last")
            .add(&[1.0], &[1.0, 2.0])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer `last`: the reference's vector has 1 values, the mode's 2"
        );
    }
}
