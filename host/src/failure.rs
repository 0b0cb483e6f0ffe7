//! Failures and the exit codes that they end in.

use std::process::ExitCode;

/// Everything went well.
pub const OK: u8 = 0;
/// The benchmark says no: a cell failed.
pub const VERDICT: u8 = 1;
/// The user asked for something that is not there or cannot be.
pub const USAGE: u8 = 2;
/// A plugin or the program itself failed.
pub const INTERNAL: u8 = 3;

/// An error that is the user's to mend, wrapped so that [`exit_code`] knows it.
#[derive(Debug)]
pub struct UsageError(anyhow::Error);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for UsageError {}

/// Marks `error` as one of usage.
pub fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    if is_usage(&error) {
        error
    } else {
        anyhow::Error::new(UsageError(error))
    }
}

/// Whether an error is the user's to mend.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<UsageError>)
}

/// The exit code that an error ends in.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if is_usage(error) { USAGE } else { INTERNAL })
}
