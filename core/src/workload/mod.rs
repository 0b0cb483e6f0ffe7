//! What a cell runs: sequences chosen from a data set, cut, tokenised and put into batches.
//!
//! The order is fixed: choose ([`Sampling`]) → cut to bases → tokenise → wrap in the tokenizer's special tokens and
//! truncate to the limit, so that the closing token stays → batch ([`batches`]). All of it happens before any clock
//! runs.

mod batch;
mod condition;
mod error;
mod kind;
mod prepare;
mod sampling;
mod tokenizer;

pub use batch::{Batch, Padding, PaddingSide, batches};
pub use condition::Condition;
pub use error::WorkloadError;
pub use kind::{Generation, WorkloadKind};
pub use prepare::Workload;
pub use sampling::Sampling;
pub use tokenizer::{TokenisedSequence, TokenisedWindow, Tokenizer, WindowTokenizer};
