//! Model families, written once.
//!
//! A family is generic over [`Ops`], a handful of coarse operations that a backend implements on its own tensor type.
//! A new backend writes operations and no model; a new family touches this crate and no backend.

mod config;
mod decoder;
mod dequantize;
mod loader;
mod model;
mod ops;
mod rope;

pub use config::{ARCHITECTURES, DecoderConfig};
pub use decoder::Decoder;
pub use dequantize::dequantize_in_parts;
pub use model::DecoderModel;
pub use ops::{AttentionShape, Layers, Loaded, Ops, Pass};
