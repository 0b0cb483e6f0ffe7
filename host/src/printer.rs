//! What is said where: the product on standard output, everything else on standard error.

use std::io::{Write, stderr, stdout};

use anyhow::{Context, Result};
use serde_json::Value;

/// Writes a line of the product. A closed pipe (`qbench … | head`) is no error.
pub fn out(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// Writes a line beside the product.
pub fn note(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// Writes the product as JSON.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn json(value: &Value) -> Result<()> {
    out(&serde_json::to_string_pretty(value).context("write JSON")?);
    Ok(())
}
