//! Cases, and what they find.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{Deserialize, Serialize};

use crate::{Error, bridge};

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The contract is kept.
    Pass,
    /// The contract is kept, but users may be surprised.
    Warn,
    /// The contract is broken.
    Fail,
    /// The case does not apply.
    Skip,
}

/// What a case found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the case.
    pub case: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen, where that is worth a sentence.
    pub detail: String,
}

/// Something to try on a scheme or backend.
pub struct Case<S: 'static> {
    /// Its name, in kebab case.
    pub name: &'static str,
    /// What must hold.
    pub description: &'static str,
    pub(super) run: fn(&S) -> Outcome,
}

/// What a case comes to: a verdict with a detail, or else why the contract is broken.
pub(super) type Outcome = std::result::Result<(Verdict, String), Broken>;

/// Why a contract is broken.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl From<String> for Broken {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

/// The outcome of a case that found nothing wrong.
#[expect(clippy::unnecessary_wraps, reason = "it is what a case returns")]
pub(super) fn pass() -> Outcome {
    Ok((Verdict::Pass, String::new()))
}

/// How something ended that ought to be refused.
pub(super) enum Ended<T> {
    Done(T),
    Refused(Error),
    Panicked(String),
}

/// Calls plugin code that may panic, in this process or behind the boundary.
pub(super) fn attempt<T>(body: impl FnOnce() -> crate::Result<T>) -> Ended<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ended::Done(value),
        Ok(Err(Error::Panic(message))) => Ended::Panicked(message),
        Ok(Err(error)) => Ended::Refused(error),
        Err(payload) => Ended::Panicked(bridge::message(payload)),
    }
}

impl<S> Case<S> {
    /// Runs the case. A panic is a finding.
    pub fn run(&self, subject: &S) -> Finding {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.run)(subject)))
            .unwrap_or_else(|payload| Err(Broken(format!("panicked: {}", bridge::message(payload)))));
        let (verdict, detail) = outcome.unwrap_or_else(|broken| (Verdict::Fail, broken.0));
        Finding {
            case: self.name.to_owned(),
            verdict,
            detail,
        }
    }
}

/// The findings of all cases on one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One finding a case, in the order of the cases.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn of<S>(cases: &[Case<S>], subject: &S) -> Self {
        Self {
            findings: cases.iter().map(|case| case.run(subject)).collect(),
        }
    }

    /// Whether no case failed.
    pub fn passed(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.verdict != Verdict::Fail)
    }

    /// Ends a test unless all cases passed.
    ///
    /// # Panics
    /// When a case failed, with the report as the message.
    pub fn assert_passed(&self) {
        assert!(self.passed(), "the contract is broken:\n{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4}  {:25}  {}", self.verdict, self.case, self.detail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings
            .iter()
            .try_for_each(|finding| writeln!(f, "{}", finding.to_string().trim_end()))
    }
}
