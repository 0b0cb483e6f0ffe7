//! What is said where: the product on standard output, everything else on standard error.

use std::{
    io::{ErrorKind, IsTerminal, Write, stderr, stdout},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Whether a line of the product could not be written.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes a line of the product. A closed pipe (`qbench … | head`) is no error; for another one see [`finish`].
pub fn out(text: &str) {
    note_loss(writeln!(stdout(), "{text}"));
}

fn note_loss(written: std::io::Result<()>) {
    if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Writes out what is still buffered.
///
/// # Errors
/// Some of the product could not be written.
pub fn finish() -> Result<()> {
    note_loss(stdout().flush());
    ensure!(
        !LOST.load(Ordering::Relaxed),
        "standard output could not be written in full"
    );
    Ok(())
}

/// Writes a line beside the product.
pub fn note(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// `text`, in red where `stream` is a terminal and the user has not asked for no colours (`NO_COLOR`).
pub fn red(text: &str, stream: &impl IsTerminal) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !stream.is_terminal() {
        return text.to_owned();
    }
    format!("\u{1b}[31m{text}\u{1b}[0m")
}

/// Writes the product as JSON.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn json(value: &Value) -> Result<()> {
    out(&serde_json::to_string_pretty(value).context("write JSON")?);
    Ok(())
}
