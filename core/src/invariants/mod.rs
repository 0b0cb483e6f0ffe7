//! What must hold whatever is measured. A cell in which something does not hold is [`Status::Invalid`]: its row keeps its
//! numbers, is red, takes no part in means, figures and comparisons, and makes the exit code 1.
//!
//! Each check is a function of what the host measured and what the plugin claimed; it returns one [`Violation`] for each
//! thing that is wrong, in words that name what was expected and what was found. A doubt that leaves the numbers
//! believable is a warning of the record instead.
//!
//! [`Status::Invalid`]: crate::results::Status::Invalid

mod evaluation;
mod memory;
mod outputs;
mod quality;
mod time;
mod weights;

pub use evaluation::{COSINE, evaluation};
pub use memory::{HELD_BYTES, MEMORY_CLAIM, MEMORY_LEAK, held_bytes, memory_claim, memory_leak};
pub use outputs::{NON_FINITE_OUTPUTS, finite_outputs, finite_quality};
pub use quality::{
    BACKENDS_DISAGREE, COSINE_ABOVE_ONE, IMPLAUSIBLE_PERPLEXITY, NEGATIVE_DIVERGENCE, NOT_REPEATABLE,
    Repeatability, cosines_at_most_one, divergences_not_negative, float32_backends_agree,
    perplexity_is_plausible, repeats_itself,
};
pub use time::{DEVICE_IDLE, DEVICE_SECONDS, device_idle, device_seconds};
pub use weights::{EXECUTION_CLAIM, WEIGHT_BITS, WEIGHT_LIST, execution_claims, join_weights, weight_bits};

use serde::{Deserialize, Serialize};

/// Something that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Name of what should hold, such as `non_finite_outputs`; stable, for programs that read the record.
    pub invariant: String,
    /// What was expected and what was found, in words.
    pub found: String,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn new(invariant: &str, found: String) -> Self {
        Self {
            invariant: invariant.to_owned(),
            found,
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.found)
    }
}

/// All violations in one sentence, as the reason of a row.
pub fn describe(violations: &[Violation]) -> String {
    let parts: Vec<String> = violations.iter().map(Violation::to_string).collect();
    parts.join("; ")
}
