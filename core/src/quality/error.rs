/// Why two outputs cannot be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QualityError {
    /// The logits are not one row a token.
    #[error(
        "{side} logits: {found} values for {tokens} tokens and a vocabulary of {vocabulary}; expected {}",
        tokens * vocabulary
    )]
    LogitsShape {
        /// `reference` or `mode`.
        side: &'static str,
        /// Values that were given.
        found: usize,
        /// Tokens of the sequence.
        tokens: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A token that the model does not know.
    #[error("token id {id} at position {position} is beyond the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Where, from 0.
        position: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// Two vectors of different length.
    #[error("layer `{layer}`: the reference's vector has {reference} values, the mode's {mode}")]
    VectorLength {
        /// The layer.
        layer: String,
        /// Values of the reference's vector.
        reference: usize,
        /// Values of the mode's vector.
        mode: usize,
    },
}
