//! Tests of whole models, and what tests share.

mod conformance;
mod model;
mod parity;
pub(crate) mod support;
