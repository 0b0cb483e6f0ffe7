//! What must hold of quality numbers, whatever the mode.

use super::Violation;
use crate::results::{LayerQuality, TokenQuality};

/// A divergence is negative.
pub const NEGATIVE_DIVERGENCE: &str = "negative_divergence";
/// A cosine or a correlation is larger than 1.
pub const COSINE_ABOVE_ONE: &str = "cosine_above_one";
/// A perplexity is far beyond the size of the vocabulary.
pub const IMPLAUSIBLE_PERPLEXITY: &str = "implausible_perplexity";
/// The reference, computed again, is not itself.
pub const NOT_REPEATABLE: &str = "not_repeatable";
/// Two backends disagree about the f32 model.
pub const BACKENDS_DISAGREE: &str = "backends_disagree";

/// KL is not negative; each of its sums of f64 is exact to about 1e-12 at logits of ordinary size.
const KL_ROUNDING: f64 = 1e-9;

/// A cosine is at most 1; sums over f64 of values read from f32 stay far within this.
const COSINE_ROUNDING: f64 = 1e-6;

/// A model that knows nothing has the vocabulary's size as its perplexity. One that is much worse is confidently wrong:
/// most likely the tokenizer is not the model's, or ids are mixed up.
const WORST_PERPLEXITY: f64 = 1.5;

/// Mean KL, in nats, that two correct f32 implementations may differ by. Logits that differ by a relative 1e-5 of a range
/// of some tens, as sums in another order give, come to about 1e-8; one pair of exchanged logits to far more.
const FLOAT32_AGREEMENT: f64 = 1e-6;

/// Divergences that are negative.
pub fn divergences_not_negative(tokens: &TokenQuality) -> Option<Violation> {
    let smallest = [
        ("KL", tokens.kl.min),
        ("reverse KL", tokens.kl_reverse.min),
        ("Jensen-Shannon divergence", tokens.js.min),
    ];
    let (name, value) = smallest.into_iter().find(|&(_, value)| value < -KL_ROUNDING)?;
    let found = format!("the smallest {name} of a token is {value:e} nats; it cannot be negative");
    Some(Violation::new(NEGATIVE_DIVERGENCE, found))
}

/// Cosines and correlations beyond 1.
pub fn cosines_at_most_one(layers: &[LayerQuality]) -> Option<Violation> {
    let values = layers.iter().flat_map(|layer| {
        [
            (layer, "cosine_similarity", layer.cosine_similarity),
            (layer, "pearson_correlation", layer.pearson_correlation),
        ]
    });
    let mut beyond = values.filter_map(|(layer, name, value)| {
        let value = value.filter(|value| value.abs() > 1.0 + COSINE_ROUNDING)?;
        Some(format!(
            "{name} of layer `{}` is {value:?}; it cannot exceed 1",
            layer.layer
        ))
    });
    Some(Violation::new(COSINE_ABOVE_ONE, beyond.next()?))
}

/// Perplexities beyond 1.5 times the size of the vocabulary.
pub fn perplexity_is_plausible(tokens: &TokenQuality, vocabulary: usize) -> Option<Violation> {
    let limit = WORST_PERPLEXITY * vocabulary as f64;
    let sides = [
        ("mode", tokens.perplexity.value),
        ("reference", tokens.reference_perplexity),
    ];
    let (side, perplexity) = sides.into_iter().find(|&(_, perplexity)| perplexity > limit)?;
    Some(Violation::new(
        IMPLAUSIBLE_PERPLEXITY,
        format!(
            "the {side}'s perplexity is {perplexity:.1}, worse than guessing among {vocabulary} tokens; is the tokenizer \
             the model's own?"
        ),
    ))
}

/// What a backend says of two passes over the same input.
#[derive(Clone, Copy, Debug)]
pub struct Repeatability {
    /// Whether it claims the same bits.
    pub deterministic: bool,
    /// Otherwise the largest KL at any position that it claims.
    pub bound: Option<f64>,
}

/// For the reference computed once more by the same backend: equal where the backend says that it is deterministic, within
/// its bound where it gives one. Claims nothing where the backend claims nothing.
pub fn repeats_itself(tokens: &TokenQuality, claim: Repeatability) -> Option<Violation> {
    let allowed = if claim.deterministic { 0.0 } else { claim.bound? };
    (tokens.kl.max > allowed).then(|| {
        let said = if claim.deterministic {
            "the backend says that it is deterministic".to_owned()
        } else {
            format!("the backend says at most {allowed:e}")
        };
        Violation::new(
            NOT_REPEATABLE,
            format!(
                "the reference computed again differs from itself by a KL of {:e} nats; {said}",
                tokens.kl.max
            ),
        )
    })
}

/// For the f32 model on one backend against that of another.
pub fn float32_backends_agree(tokens: &TokenQuality) -> Option<Violation> {
    let kl = tokens.kl.mean.value;
    (kl > FLOAT32_AGREEMENT).then(|| {
        Violation::new(
            BACKENDS_DISAGREE,
            format!(
                "mean KL of the f32 model against the reference's backend is {kl:e} nats; correct implementations stay \
                 below {FLOAT32_AGREEMENT:e}"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Distribution, Estimate};

    fn estimate(value: f64) -> Estimate {
        Estimate {
            value,
            interval: None,
        }
    }

    fn tokens(smallest: f64, largest: f64) -> TokenQuality {
        TokenQuality {
            kl: Distribution {
                mean: estimate(f64::midpoint(smallest, largest)),
                min: smallest,
                max: largest,
                ..Distribution::default()
            },
            perplexity: estimate(6.0),
            reference_perplexity: 6.0,
            ..TokenQuality::default()
        }
    }

    #[test]
    fn rounding_passes_and_negative_divergences_do_not() {
        assert_eq!(divergences_not_negative(&tokens(-1e-12, 0.0)), None);
        let found = divergences_not_negative(&tokens(-1e-8, 0.0)).unwrap().to_string();
        assert!(found.contains("KL of a token is -1e-8 nats"), "{found}");
    }

    #[test]
    fn cosines_end_at_one() {
        let layer = |cosine| LayerQuality {
            layer: "last".to_owned(),
            cosine_similarity: Some(cosine),
            ..LayerQuality::default()
        };
        assert_eq!(cosines_at_most_one(&[layer(1.0 + 1e-9)]), None);
        let found = cosines_at_most_one(&[layer(0.5), layer(-1.003)]).unwrap().found;
        assert!(found.contains("`last` is -1.003"), "{found}");
    }

    #[test]
    fn perplexity_ends_at_one_and_a_half_vocabularies() {
        assert_eq!(perplexity_is_plausible(&tokens(0.0, 0.0), 4), None);
        let found = perplexity_is_plausible(&tokens(0.0, 0.0), 3).unwrap().found;
        assert!(found.starts_with("the mode's perplexity is 6.0"), "{found}");
        let overflowed = TokenQuality {
            reference_perplexity: f64::INFINITY,
            ..tokens(0.0, 0.0)
        };
        assert!(
            perplexity_is_plausible(&overflowed, 4)
                .unwrap()
                .found
                .contains("reference's perplexity is inf")
        );
    }

    #[test]
    fn a_backend_is_held_to_its_claim() {
        let claim = |deterministic, bound| Repeatability { deterministic, bound };
        assert_eq!(repeats_itself(&tokens(0.0, 0.0), claim(true, None)), None);
        assert!(repeats_itself(&tokens(0.0, 1e-12), claim(true, None)).is_some());
        assert_eq!(
            repeats_itself(&tokens(0.0, 1e-12), claim(false, Some(1e-10))),
            None
        );
        assert!(repeats_itself(&tokens(0.0, 1e-9), claim(false, Some(1e-10))).is_some());
        assert_eq!(repeats_itself(&tokens(0.0, 1.0), claim(false, None)), None);
    }

    #[test]
    fn backends_agree_in_f32() {
        assert_eq!(float32_backends_agree(&tokens(0.0, 1e-7)), None);
        assert!(float32_backends_agree(&tokens(0.0, 1e-3)).is_some());
    }
}
