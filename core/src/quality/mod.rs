//! What a mode does to a model's outputs, measured against the reference: pure functions, nothing is read or written.
//!
//! [`TokenAccumulator`] compares next-token distributions, [`LayerAccumulator`] pooled embeddings,
//! [`HiddenStatesAccumulator`] every hidden state token by token. All take one
//! sequence at a time, the reference's values first, and end in the rows of the record and in warnings. A value that
//! is undefined (no finite logits, no bases) is NaN or `None`, never 0; values that are not finite are counted.

mod checks;
mod distribution;
mod error;
mod hidden_states;
mod histogram;
mod layers;
mod reference;
mod tokens;

#[cfg(test)]
mod test_values;

pub use error::QualityError;
pub use hidden_states::HiddenStatesAccumulator;
pub use layers::{LayerAccumulator, LayerReport};
pub use reference::{
    REFERENCE_LAYERS, Reference, ReferenceError, ReferenceLabel, ReferenceWriter, WindowNll, read_label,
};
pub use tokens::{
    Compared, Prediction, SequenceInfo, SequencePair, SlidingNll, TokenAccumulator, TokenComparison,
    TokenReport, Window, gc_share, window_nll, windows,
};
