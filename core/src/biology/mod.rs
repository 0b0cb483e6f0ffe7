//! What quantisation does to questions that biologists ask a genomic language model: pure functions, nothing is read or
//! written, no model is run here.
//!
//! - [`strands`]: does the model say the same of a stretch of DNA and of its reverse complement?
//! - [`variants`]: which single-nucleotide substitutions does it take for damaging?
//! - [`binning`]: do its embeddings tell genomes apart?
//!
//! All three compare a mode with the reference, which reads the same windows. A window's likelihood is that of all its
//! bases ([`log_likelihood`]).

pub mod binning;
mod likelihood;
pub mod strands;
pub mod variants;

pub use likelihood::log_likelihood;

/// A stretch of a genome that takes part: the bases that the condition leaves of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The genome it was taken from.
    pub genome_id: &'a str,
    /// Its name.
    pub fragment_id: &'a str,
    /// Its bases, upper case, over `A C G T N`.
    pub bases: &'a str,
}

/// Why a mode and the reference cannot be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reference was made from other windows ({what}); run again")]
pub struct OtherWindows {
    /// What differs.
    pub what: String,
}
