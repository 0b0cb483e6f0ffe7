//! What must hold whatever the mode: a violation points to a fault in the measurement or to a broken mode.

use crate::results::{LayerQuality, TokenQuality};

/// KL is not negative; each of its sums of f64 is exact to about 1e-12 at logits of ordinary size.
const KL_ROUNDING: f64 = 1e-9;

/// A cosine is at most 1; sums over f64 of values read from f32 stay far within this.
const COSINE_ROUNDING: f64 = 1e-6;

/// A model that knows nothing has the vocabulary's size as its perplexity. One that is much worse is confidently wrong.
const WORST_PERPLEXITY: f64 = 1.5;

/// Positions of all sequences.
#[derive(Clone, Copy)]
pub(super) struct Positions {
    pub(super) compared: u64,
    pub(super) excluded: u64,
}

/// Warnings about token-level numbers.
pub(super) fn tokens(
    quality: &TokenQuality,
    smallest_kl: f64,
    positions: Positions,
    vocabulary: usize,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if positions.excluded > 0 {
        warnings.push(format!(
            "{} logits at {} of {} positions are not finite; the positions are left out",
            quality.non_finite,
            positions.excluded,
            positions.excluded + positions.compared
        ));
    }
    if smallest_kl < -KL_ROUNDING {
        warnings.push(format!(
            "the smallest token-level KL is {smallest_kl:e}; it cannot be negative"
        ));
    }
    let limit = WORST_PERPLEXITY * vocabulary as f64;
    for (side, perplexity) in [
        ("mode", quality.perplexity),
        ("reference", quality.reference_perplexity),
    ] {
        if perplexity > limit {
            warnings.push(format!(
                "the {side}'s perplexity is {perplexity:.1}, worse than guessing among {vocabulary} tokens; is the \
                 tokenizer the model's own?"
            ));
        }
    }
    if quality.perplexity.is_nan() || quality.bits_per_base.is_nan() {
        warnings.push("perplexity or bits_per_base is undefined: nothing was predicted".to_owned());
    }
    warnings
}

/// Warnings about a layer's numbers.
pub(super) fn layer(quality: &LayerQuality, values: u64) -> Vec<String> {
    let layer = &quality.layer;
    let mut warnings = Vec::new();
    if quality.non_finite > 0 {
        warnings.push(format!(
            "layer `{layer}`: {} of {values} pooled values are not finite; they are left out",
            quality.non_finite
        ));
    }
    for (name, value) in [
        ("cosine_similarity", quality.cosine_similarity),
        ("pearson_correlation", quality.pearson_correlation),
    ] {
        if let Some(value) = value.filter(|value| value.abs() > 1.0 + COSINE_ROUNDING) {
            warnings.push(format!(
                "layer `{layer}`: {name} is {value:?}; it cannot exceed 1"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITIONS: Positions = Positions {
        compared: 9,
        excluded: 0,
    };

    fn token_quality() -> TokenQuality {
        TokenQuality {
            perplexity: 6.0,
            reference_perplexity: 6.0,
            bits_per_base: 1.0,
            ..TokenQuality::default()
        }
    }

    #[test]
    fn sound_numbers_pass() {
        assert!(tokens(&token_quality(), -1e-12, POSITIONS, 4).is_empty());
        let quality = LayerQuality {
            cosine_similarity: Some(1.0 + 1e-9),
            ..LayerQuality::default()
        };
        assert!(layer(&quality, 5).is_empty());
    }

    #[test]
    fn impossible_numbers_are_told() {
        let warning = |quality: &TokenQuality, smallest_kl| {
            let warnings = tokens(quality, smallest_kl, POSITIONS, 4);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            warnings[0].clone()
        };
        assert!(warning(&token_quality(), -1e-8).contains("KL is -1e-8; it cannot be negative"));
        let guessing = TokenQuality {
            perplexity: 6.1,
            ..token_quality()
        };
        assert!(
            warning(&guessing, 0.0).contains("the mode's perplexity is 6.1, worse than guessing among 4")
        );
        let overflowed = TokenQuality {
            reference_perplexity: f64::INFINITY,
            ..token_quality()
        };
        assert!(warning(&overflowed, 0.0).contains("the reference's perplexity is inf"));
        let quality = LayerQuality {
            layer: "last".to_owned(),
            cosine_similarity: Some(-1.1),
            non_finite: 2,
            ..LayerQuality::default()
        };
        assert_eq!(
            layer(&quality, 5),
            [
                "layer `last`: 2 of 5 pooled values are not finite; they are left out",
                "layer `last`: cosine_similarity is -1.1; it cannot exceed 1"
            ]
        );
    }
}
