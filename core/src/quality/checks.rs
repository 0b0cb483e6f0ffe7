//! Doubts about numbers that leave the rest believable; what makes a cell unbelievable is in [`crate::invariants`].

use crate::results::{LayerQuality, TokenQuality};

/// Warnings about token-level numbers.
pub(super) fn tokens(quality: &TokenQuality) -> Vec<String> {
    let mut warnings = Vec::new();
    if quality.excluded > 0 {
        warnings.push(format!(
            "{} logits at {} of {} positions are not finite; the positions are left out",
            quality.non_finite,
            quality.excluded,
            quality.excluded + quality.positions
        ));
    }
    if quality.perplexity.value.is_nan() || quality.bits_per_base.value.is_nan() {
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
    warnings
}
