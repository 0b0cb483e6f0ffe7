//! `qbench quantize`.
use crate::cli::{OutputArgs, QuantizeArgs};
use anyhow::Result;
use std::process::ExitCode;
pub(super) fn quantize(_: &QuantizeArgs, _: &OutputArgs) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
