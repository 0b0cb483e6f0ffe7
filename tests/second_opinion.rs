//! The CPU backend against a second opinion, the same decoders in candle's own operations on its CPU device
//! (`plugins/candle/tests/second_opinion`); neither needs a GPU. What transformers computed is held against both in
//! `decoders` and `parity`.
//!
//! Building candle takes minutes the first time, so these tests run when asked for:
//! `cargo test --workspace --tests -- --ignored second_opinion`, with `--nocapture` for the figures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

mod agreement;

use agreement::{Engine, MODES, check_cache, check_modes};
use qbench_sdk::DType;
use qbench_tests::second_opinion;

/// All but `8bit`, whose products quantise activations: the second opinion multiplies floats alone.
fn modes() -> Vec<&'static str> {
    MODES.into_iter().filter(|mode| *mode != "8bit").collect()
}

fn engine() -> Engine {
    Engine {
        id: "second_opinion",
        file: second_opinion().to_path_buf(),
        device: "cpu",
    }
}

#[test]
#[ignore = "builds plugins/candle"]
fn the_second_opinion_is_that_of_the_cpu_backend() {
    check_modes(
        &engine(),
        &[DType::F32, DType::BF16, DType::F16],
        &modes(),
        |_, _, _| (),
    );
}

#[test]
#[ignore = "builds plugins/candle"]
fn the_cache_goes_on_in_the_second_opinion() {
    check_cache(&engine(), &modes());
}
