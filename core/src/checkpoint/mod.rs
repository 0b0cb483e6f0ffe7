//! Models as they are stored: config, weights, and the weights as a mode stores them.
//!
//! [`ModelSource`] says where a model is, [`Checkpoint`] holds its config and its mapped weights, [`ModulePolicy`]
//! chooses what is quantised, and [`StoredWeights`] hands the weights to a backend, each as the mode stores it.
//! [`export`] writes a quantised model that transformers loads.

mod dimensions;
mod error;
pub mod export;
mod files;
mod ledger;
mod parallel;
mod parts;
mod philox;
mod policy;
mod source;
mod store;
mod stored;
mod synthetic;
mod tensor;

#[cfg(test)]
mod tests;

pub use dimensions::Dimensions;
pub use error::CheckpointError;
pub use ledger::{MemoryUse, TensorRecord};
pub use parts::{Granularity, Part, parts};
pub use policy::ModulePolicy;
pub use source::ModelSource;
pub use store::Checkpoint;
pub use stored::StoredWeights;
pub use tensor::{SourceTensor, TensorEntry};
