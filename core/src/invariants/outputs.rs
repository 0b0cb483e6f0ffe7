//! The outputs of a model are finite.

use super::Violation;
use crate::results::Quality;

/// An output of the model is NaN or infinite.
pub const NON_FINITE_OUTPUTS: &str = "non_finite_outputs";

/// The `values` pooled embeddings that a performance cell looked at, of which `non_finite` were not finite.
pub fn finite_outputs(non_finite: u64, values: u64) -> Option<Violation> {
    (non_finite > 0).then(|| {
        Violation::new(
            NON_FINITE_OUTPUTS,
            format!("{non_finite} of {values} values of the pooled embeddings are NaN or infinite"),
        )
    })
}

/// The logits and pooled embeddings of a quality cell.
pub fn finite_quality(quality: &Quality) -> Option<Violation> {
    let mut parts: Vec<String> = quality
        .tokens_level
        .iter()
        .filter(|tokens| tokens.non_finite > 0)
        .map(|tokens| format!("{} logits", tokens.non_finite))
        .collect();
    parts.extend(
        quality
            .layers
            .iter()
            .filter(|layer| layer.non_finite > 0)
            .map(|layer| {
                format!(
                    "{} values of the pooled layer `{}`",
                    layer.non_finite, layer.layer
                )
            }),
    );
    (!parts.is_empty()).then(|| {
        Violation::new(
            NON_FINITE_OUTPUTS,
            format!("{} are NaN or infinite", parts.join(" and ")),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{LayerQuality, TokenQuality};

    #[test]
    fn one_value_is_enough() {
        assert_eq!(finite_outputs(0, 100), None);
        let found = finite_outputs(1, 100).unwrap().to_string();
        assert!(found.starts_with("non_finite_outputs: 1 of 100"), "{found}");
    }

    #[test]
    fn logits_and_layers_are_named() {
        let mut quality = Quality {
            layers: vec![LayerQuality {
                layer: "last".to_owned(),
                non_finite: 3,
                ..LayerQuality::default()
            }],
            tokens_level: Some(TokenQuality::default()),
            ..Quality::default()
        };
        let found = finite_quality(&quality).unwrap().found;
        assert_eq!(found, "3 values of the pooled layer `last` are NaN or infinite");
        quality.layers[0].non_finite = 0;
        assert_eq!(finite_quality(&quality), None);
        quality.tokens_level = Some(TokenQuality {
            non_finite: 2,
            ..TokenQuality::default()
        });
        assert_eq!(
            finite_quality(&quality).unwrap().found,
            "2 logits are NaN or infinite"
        );
    }
}
