//! The numbers of cells about layers and biology.

use super::{NON_FINITE_OUTPUTS, Violation};
use crate::results::Evaluation;

/// A cosine is larger than 1.
pub const COSINE: &str = "cosine_at_most_1";

/// A cosine is at most 1; sums over f64 of values read from f32 stay far within this.
const COSINE_ROUNDING: f64 = 1e-6;

/// What does not hold of a cell about layers or biology: everything is finite, no cosine exceeds 1.
pub fn evaluation(evaluation: &Evaluation) -> Vec<Violation> {
    let (non_finite, what): (u64, _) = match evaluation {
        Evaluation::Layers(layers) => (
            layers.hidden_states.iter().map(|state| state.non_finite).sum(),
            "values of the hidden states",
        ),
        Evaluation::ReverseComplement(strands) => (strands.non_finite, "windows' likelihoods"),
        Evaluation::Variants(variants) => (variants.non_finite, "variants' scores"),
        Evaluation::Binning(binning) => (binning.non_finite, "fragments' embeddings"),
    };
    let mut violations = Vec::new();
    if non_finite > 0 {
        violations.push(Violation::new(
            NON_FINITE_OUTPUTS,
            format!("{non_finite} {what} are NaN or infinite"),
        ));
    }
    if let Some(cosine) = cosines(evaluation).find(|cosine| cosine.abs() > 1.0 + COSINE_ROUNDING) {
        violations.push(Violation::new(
            COSINE,
            format!("a cosine is {cosine:?}; it cannot exceed 1"),
        ));
    }
    violations
}

fn cosines(evaluation: &Evaluation) -> Box<dyn Iterator<Item = f64> + '_> {
    match evaluation {
        Evaluation::Layers(layers) => Box::new(
            layers
                .hidden_states
                .iter()
                .flat_map(|state| state.cosine_mean.into_iter().chain(state.cosine_min)),
        ),
        Evaluation::ReverseComplement(strands) => {
            Box::new(strands.windows.iter().filter_map(|pair| pair.cosine))
        }
        Evaluation::Variants(_) | Evaluation::Binning(_) => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{HiddenStateQuality, Layers, Variants};

    #[test]
    fn sound_numbers_pass_and_others_are_named() {
        let layers = |cosine, non_finite| {
            Evaluation::Layers(Layers {
                hidden_states: vec![HiddenStateQuality {
                    cosine_mean: Some(cosine),
                    non_finite,
                    ..HiddenStateQuality::default()
                }],
                ..Layers::default()
            })
        };
        assert_eq!(evaluation(&layers(1.0 + 1e-9, 0)), []);
        let found = evaluation(&layers(1.1, 3));
        assert_eq!(found.len(), 2);
        assert!(found[0].found.starts_with("3 values of the hidden states"));
        assert!(found[1].found.contains("1.1"));
        let variants = Variants {
            non_finite: 1,
            ..Variants::default()
        };
        assert_eq!(
            evaluation(&Evaluation::Variants(variants))[0].invariant,
            NON_FINITE_OUTPUTS
        );
    }
}
