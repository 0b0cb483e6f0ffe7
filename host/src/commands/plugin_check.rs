//! `qbench plugin check`.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use qbench_sdk::conformance::{Finding, Verdict};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{OutputArgs, PluginCheckArgs},
    failure::{self, usage},
    plugins::{ConformanceJob, PluginFile, SearchPath, SubjectKind, conformance_cases, examine, try_case},
    printer,
};

/// The findings on one scheme or backend.
#[derive(Serialize)]
struct Subject {
    kind: SubjectKind,
    id: String,
    findings: Vec<Finding>,
}

pub(super) fn check(arguments: &PluginCheckArgs, output: &OutputArgs) -> Result<ExitCode> {
    check_names(&arguments.case)?;
    let file = match examine(&arguments.file, &SearchPath::default(), false) {
        Ok(file) => file,
        Err(error) => return refused(arguments, output, &error),
    };
    if !output.json {
        printer::out(&format!(
            "{} {}  {}\nsha256 {}\n",
            file.offer.manifest.name,
            file.offer.manifest.version,
            file.path.display(),
            file.sha256
        ));
    }
    let mut subjects = vec![Subject {
        kind: SubjectKind::Plugin,
        id: file.offer.manifest.name.clone(),
        findings: of_the_file(&file),
    }];
    if !output.json {
        print_subject(&subjects[0]);
    }
    for (kind, id) in offered(&file) {
        let subject = try_all(arguments, output, &file, kind, id);
        subjects.push(subject);
    }
    let count = |verdict: Verdict| {
        let findings = subjects.iter().flat_map(|subject| &subject.findings);
        findings.filter(|finding| finding.verdict == verdict).count()
    };
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    if output.json {
        printer::json(&json!({
            "schema": "qbench.plugin-check/1",
            "path": file.path,
            "sha256": file.sha256,
            "manifest": file.offer.manifest,
            "passed": failed == 0,
            "subjects": subjects,
        }))?;
    } else {
        printer::out(&format!(
            "{}: {} passed, {warned} with a warning, {failed} failed, {} skipped",
            if failed == 0 {
                "the plugin conforms"
            } else {
                "the plugin does not conform"
            },
            count(Verdict::Pass),
            count(Verdict::Skip)
        ));
    }
    Ok(ExitCode::from(if failed == 0 {
        failure::OK
    } else {
        failure::VERDICT
    }))
}

/// Refuses names of cases that are not there.
fn check_names(wanted: &[String]) -> Result<()> {
    let known: BTreeSet<&str> = [SubjectKind::Scheme, SubjectKind::Backend]
        .into_iter()
        .flat_map(|kind| conformance_cases(kind).into_iter().map(|(name, _)| name))
        .collect();
    match wanted.iter().find(|name| !known.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(usage(anyhow!(
            "no case `{name}`; there are: {}",
            known.into_iter().collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// A file that cannot be opened as a plugin.
fn refused(arguments: &PluginCheckArgs, output: &OutputArgs, error: &anyhow::Error) -> Result<ExitCode> {
    let finding = Finding {
        case: "opens".to_owned(),
        verdict: Verdict::Fail,
        detail: format!("{error:#}"),
    };
    if output.json {
        printer::json(&json!({
            "schema": "qbench.plugin-check/1",
            "path": arguments.file,
            "passed": false,
            "subjects": [{ "kind": SubjectKind::Plugin, "id": null, "findings": [finding] }],
        }))?;
    } else {
        printer::out(&format!("{}\n{finding}", arguments.file.display()));
    }
    Ok(failure::exit_code(error))
}

fn offered(file: &PluginFile) -> Vec<(SubjectKind, String)> {
    let schemes = file
        .offer
        .schemes
        .iter()
        .map(|info| (SubjectKind::Scheme, info.id.clone()));
    let backends = file
        .offer
        .backends
        .iter()
        .map(|info| (SubjectKind::Backend, info.id.clone()));
    schemes.chain(backends).collect()
}

/// What can be said of the file without calling any of its schemes.
fn of_the_file(file: &PluginFile) -> Vec<Finding> {
    let finding = |case: &str, problem: Option<String>| Finding {
        case: case.to_owned(),
        verdict: if problem.is_some() {
            Verdict::Fail
        } else {
            Verdict::Pass
        },
        detail: problem.unwrap_or_default(),
    };
    let offer = &file.offer;
    let nothing = offer.schemes.is_empty() && offer.backends.is_empty();
    let mut seen = BTreeSet::new();
    let names = offer
        .schemes
        .iter()
        .flat_map(|info| std::iter::once(&info.id).chain(&info.aliases));
    let twice: Vec<&str> = names
        .filter(|name| !seen.insert(*name))
        .map(String::as_str)
        .collect();
    vec![
        finding("opens", None),
        finding(
            "offers-something",
            nothing.then(|| "it offers no scheme and no backend: list them in `export_plugin!`".to_owned()),
        ),
        finding(
            "names-are-unique",
            (!twice.is_empty()).then(|| format!("used twice: {}", twice.join(", "))),
        ),
    ]
}

fn try_all(
    arguments: &PluginCheckArgs,
    output: &OutputArgs,
    file: &PluginFile,
    kind: SubjectKind,
    id: String,
) -> Subject {
    let mut subject = Subject {
        kind,
        id,
        findings: Vec::new(),
    };
    let wanted = |name: &str| arguments.case.is_empty() || arguments.case.iter().any(|case| case == name);
    for (name, _) in conformance_cases(subject.kind)
        .into_iter()
        .filter(|(name, _)| wanted(name))
    {
        let job = ConformanceJob {
            path: file.path.clone(),
            kind: subject.kind,
            id: subject.id.clone(),
            device: arguments.device.clone(),
            case: name.to_owned(),
        };
        subject
            .findings
            .push(try_case(&job, Duration::from_secs_f64(arguments.case_timeout)));
    }
    if !output.json {
        print_subject(&subject);
    }
    subject
}

fn print_subject(subject: &Subject) {
    if subject.findings.is_empty() {
        return;
    }
    let kind = match subject.kind {
        SubjectKind::Plugin => "plugin",
        SubjectKind::Scheme => "mode",
        SubjectKind::Backend => "backend",
    };
    printer::out(&format!("{kind} {}", subject.id));
    let descriptions = conformance_cases(subject.kind);
    for finding in &subject.findings {
        let promise = descriptions.iter().find(|(name, _)| *name == finding.case);
        let mut shown = finding.clone();
        if let (true, Some((_, promise))) = (finding.detail.is_empty(), promise) {
            (*promise).clone_into(&mut shown.detail);
        }
        printer::out(&format!("  {}", shown.to_string().trim_end()));
        if let (Verdict::Fail, Some((_, promise))) = (finding.verdict, promise) {
            printer::out(&format!("        {:25}  expected: {promise}", ""));
        }
    }
    printer::out("");
}
