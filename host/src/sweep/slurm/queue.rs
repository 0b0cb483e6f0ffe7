//! What Slurm knows of a sweep's jobs.

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use anyhow::Result;

use super::{
    super::{
        SweepDirectory,
        executor::{Flight, JobState},
        round::read_list,
    },
    command::output,
    script::job_name,
};

/// Queries that fail are tried again so often, after this long each.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Names of jobs in one query: the command line must not grow without end.
const NAMES: usize = 500;

/// States after which a job does not run again by itself, as Slurm names them. One that was preempted may.
const FINAL: [&str; 9] = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "REVOKED",
    "TIMEOUT",
];

/// A line of the queue.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    index: Option<usize>,
    state: JobState,
}

/// Asks Slurm what is under way and how the rest ended.
pub(super) fn flight(directory: &SweepDirectory) -> Result<Flight> {
    let sweep = directory.sweep()?;
    let mut flight = Flight::default();
    let mut lists = BTreeMap::new();
    let mut names = Vec::new();
    for round in directory.rounds()? {
        if !round.is_of_slurm()? {
            continue;
        }
        flight.in_queue = Some(0);
        for list in round.lists()? {
            let stem = list
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let name = job_name(&sweep, round.number, &stem);
            names.push(name.clone());
            lists.insert(name, list);
        }
        names.push(job_name(&sweep, round.number, "collect"));
    }
    let mut tasks_of = BTreeMap::new();
    for names in names.chunks(NAMES) {
        let entries = match queue(names) {
            Ok(entries) => entries,
            Err(error) => {
                flight.unknown = Some(format!("{error:#}"));
                return Ok(flight);
            }
        };
        // The queue after the accounts, which may lag, and later rounds after earlier ones: the last word counts.
        let mut entries: Vec<Entry> = accounting(names, &sweep.created)
            .into_iter()
            .chain(entries)
            .collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            let Some(list) = lists.get(&entry.name) else {
                if !is_final(&entry.state) {
                    flight.collecting = Some(entry.state);
                }
                continue;
            };
            if !tasks_of.contains_key(&entry.name) {
                tasks_of.insert(entry.name.clone(), read_list(list)?);
            }
            let task = entry.index.and_then(|index| tasks_of[&entry.name].get(index));
            let Some(&task) = task else { continue };
            if is_final(&entry.state) {
                flight.ended.insert(task, entry.state);
            } else {
                flight.under_way.insert(task, entry.state);
            }
        }
    }
    flight.in_queue = flight.in_queue.map(|_| flight.under_way.len());
    Ok(flight)
}

fn is_final(state: &JobState) -> bool {
    FINAL.iter().any(|name| state.state.starts_with(name))
}

/// The queue's entries of these jobs. One failed query decides nothing.
fn queue(names: &[String]) -> Result<Vec<Entry>> {
    let query = || {
        output(Command::new("squeue").args([
            "--noheader",
            "--array",
            "--states=all",
            &format!("--name={}", names.join(",")),
            "--format=%j|%F|%K|%T|%r|%N",
        ]))
    };
    let mut tries = 1;
    loop {
        match query() {
            Ok(text) => return Ok(text.lines().filter_map(parse_queue).collect()),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        thread::sleep(PAUSE);
    }
}

fn parse_queue(line: &str) -> Option<Entry> {
    let mut fields = line.trim().split('|');
    let mut next = || fields.next().map(str::trim);
    let (name, array, index, state, reason, node) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let index = index.parse::<usize>().ok();
    // What a job waited for before it was cancelled is not why it was.
    let reason = if reason == "None" || state.starts_with("CANCELLED") {
        ""
    } else {
        reason
    };
    Some(Entry {
        name: name.to_owned(),
        index,
        state: JobState {
            job: index.map_or_else(|| array.to_owned(), |index| format!("{array}_{index}")),
            state: state.to_owned(),
            reason: reason.to_owned(),
            node: node.to_owned(),
        },
    })
}

/// How jobs ended that the queue has forgotten; nothing where the cluster keeps no accounts.
fn accounting(names: &[String], since: &str) -> Vec<Entry> {
    let since = day_before(since);
    let text = output(Command::new("sacct").args([
        "--allocations",
        "--noheader",
        "--parsable2",
        &format!("--starttime={since}"),
        &format!("--name={}", names.join(",")),
        "--format=JobName,JobID,State,ExitCode,NodeList",
    ]));
    text.unwrap_or_default()
        .lines()
        .filter_map(parse_account)
        .filter(|entry| is_final(&entry.state))
        .collect()
}

/// The day before a time, so that it begins before that in every time zone.
fn day_before(time: &str) -> String {
    let time = time.parse::<jiff::Timestamp>().unwrap_or_default();
    let before = time
        .saturating_sub(jiff::SignedDuration::from_hours(24))
        .unwrap_or(time);
    before.strftime("%Y-%m-%d").to_string()
}

fn parse_account(line: &str) -> Option<Entry> {
    let mut fields = line.trim().split('|');
    let mut next = || fields.next().map(str::trim);
    let (name, job, state, code, node) = (next()?, next()?, next()?, next()?, next()?);
    Some(Entry {
        name: name.to_owned(),
        index: job.split_once('_').and_then(|(_, index)| index.parse().ok()),
        state: JobState {
            job: job.to_owned(),
            // `CANCELLED by 1000`
            state: state.to_owned(),
            reason: if code == "0:0" {
                String::new()
            } else {
                format!("exit code {code}")
            },
            node: node.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_queue_and_of_the_accounts_are_read() {
        let entry = parse_queue("qbench-ab-0001-000|17|3|RUNNING|None|n2 ").unwrap();
        assert_eq!(
            (entry.name.as_str(), entry.index),
            ("qbench-ab-0001-000", Some(3))
        );
        assert_eq!(
            (entry.state.job.as_str(), entry.state.node.as_str()),
            ("17_3", "n2")
        );
        assert!(!is_final(&entry.state));
        let collect = parse_queue("qbench-ab-0001-collect|18|N/A|PENDING|Dependency|").unwrap();
        assert_eq!((collect.index, collect.state.job.as_str()), (None, "18"));
        let account = parse_account("qbench-ab-0001-000|17_3|CANCELLED by 0|0:15|n1").unwrap();
        assert!(is_final(&account.state));
        assert_eq!(account.state.reason, "exit code 0:15");
        assert_eq!(day_before("2026-03-01T02:00:00Z"), "2026-02-28");
        assert_eq!(parse_queue("slurm_load_jobs error"), None);
    }
}
