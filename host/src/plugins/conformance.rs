//! Cases of the conformance kit, each in a child process.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, anyhow};
use qbench_sdk::{
    Options,
    conformance::{BackendSubject, Case, Finding, SchemeSubject, Verdict, backend_cases, scheme_cases},
};
use serde::{Deserialize, Serialize};

use super::load;
use crate::child::{self, Limits, Verb};

/// What findings are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// The file as a whole, which the host looks at itself.
    Plugin,
    Scheme,
    Backend,
}

/// A case on a subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConformanceJob {
    pub path: PathBuf,
    pub kind: SubjectKind,
    pub id: String,
    /// A backend's device; its first when `None`.
    pub device: Option<String>,
    pub case: String,
}

/// Names and descriptions of the cases of a kind.
pub fn conformance_cases(kind: SubjectKind) -> Vec<(&'static str, &'static str)> {
    fn names<S>(cases: &'static [Case<S>]) -> Vec<(&'static str, &'static str)> {
        cases.iter().map(|case| (case.name, case.description)).collect()
    }
    match kind {
        SubjectKind::Plugin => Vec::new(),
        SubjectKind::Scheme => names(scheme_cases()),
        SubjectKind::Backend => names(backend_cases()),
    }
}

/// Runs a case in a child. However the child ends, there is a finding.
pub fn try_case(job: &ConformanceJob, limit: Duration) -> Finding {
    let limits = Limits {
        time: Some(limit),
        memory: None,
    };
    child::run::<_, Finding>(Verb::Conformance, job, limits, &crate::printer::note).unwrap_or_else(
        |failure| Finding {
            case: job.case.clone(),
            verdict: Verdict::Fail,
            detail: failure.reason,
        },
    )
}

/// The child's side of [`try_case`].
///
/// # Errors
/// The plugin cannot be opened, or there is no such case.
pub fn try_case_in_this_process(job: &ConformanceJob) -> Result<Finding> {
    fn run<S>(cases: &[Case<S>], name: &str, subject: &S) -> Result<Finding> {
        let case = cases.iter().find(|case| case.name == name);
        case.map(|case| case.run(subject))
            .ok_or_else(|| anyhow!("no case `{name}`"))
    }
    let plugin = load(&job.path)?;
    let id = job.id.clone();
    match job.kind {
        SubjectKind::Plugin => Err(anyhow!("a file as a whole has no cases of the kit")),
        SubjectKind::Scheme => {
            let subject =
                SchemeSubject::new(move |options| plugin.open_scheme(&id, options), Options::none());
            run(scheme_cases(), &job.case, &subject)
        }
        SubjectKind::Backend => {
            let subject = BackendSubject::new(
                move |options| plugin.open_backend(&id, options),
                job.device.clone(),
            );
            run(backend_cases(), &job.case, &subject)
        }
    }
}
