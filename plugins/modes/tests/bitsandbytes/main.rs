//! Everything that this plugin stores, against what bitsandbytes stores on a CPU.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside #[test] count as tests too"
)]

mod four_bit;
mod golden;
mod int8;
mod int8_activations;
mod mistral_tiny;
mod properties;
mod standard;
