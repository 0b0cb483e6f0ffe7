//! Child processes: plugin code runs in them and nowhere else.
//!
//! The program starts itself again with a job as a JSON file and waits for a result, a JSON file that the child writes
//! and renames into place. How the child ended is judged by that file and by the wait status, never by the exit code
//! alone: native code may end a process with any code at any time.

use std::{
    env, fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use qbench_core::{bounded, results::Status};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::{info, level_filters::LevelFilter};

use crate::{LOG_VARIABLE, failure, interrupt};

/// The hidden command that a child is started with.
pub const CHILD_COMMAND: &str = "__child";

/// Lines of a child's standard error that a failure quotes.
const QUOTED_LINES: usize = 4;

/// Characters of each of them that it quotes at most.
const QUOTED_CHARACTERS: usize = 1000;

/// Bytes that are read of the end of what a child said: a plugin may talk without end.
const LOG_END: u64 = 1 << 20;

/// What a child is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verb {
    /// List what a plugin file offers.
    Scan,
    /// Open a scheme with its options.
    Check,
    /// Try a case of the conformance kit.
    Conformance,
    /// Run a cell.
    Cell,
    /// Quantise a model; shows its own progress.
    Quantize,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Check => "check",
            Self::Conformance => "conformance",
            Self::Cell => "cell",
            Self::Quantize => "quantize",
        }
    }
}

/// Why a child left no result.
#[derive(Clone, Debug)]
pub struct ChildFailure {
    pub status: Status,
    pub reason: String,
    /// Whether the child itself reported the error, rather than dying.
    pub reported: bool,
    /// Whether it is the user's to mend.
    pub usage: bool,
}

impl ChildFailure {
    fn died(status: Status, reason: String) -> Self {
        Self {
            status,
            reason,
            reported: false,
            usage: false,
        }
    }
}

/// The result file of a child.
#[derive(Serialize, Deserialize)]
enum Report<R> {
    Done(R),
    Failed {
        status: Status,
        reason: String,
        usage: bool,
    },
}

/// What a child may use at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub time: Option<Duration>,
    /// Bytes of private memory, held by the system to `RLIMIT_DATA`: files that are only mapped do not count.
    pub memory: Option<u64>,
}

/// Runs `job` in a child and waits for its result, within `limits`. What the child had to say goes to `say`, line by line.
///
/// # Errors
/// How the child failed; a failure to start it is reported the same way.
pub fn run<J: Serialize, R: DeserializeOwned>(
    verb: Verb,
    job: &J,
    limits: Limits,
    say: &dyn Fn(&str),
) -> Result<R, ChildFailure> {
    let could_not_start = |error: anyhow::Error| {
        ChildFailure::died(
            Status::Error,
            format!("the worker process could not be started: {error:#}"),
        )
    };
    let folder = tempfile::Builder::new()
        .prefix("qbench-")
        .tempdir()
        .map_err(|e| could_not_start(e.into()))?;
    let files = Files::new(folder.path());
    let mut child = start(verb, job, limits, &files).map_err(could_not_start)?;
    let started = Instant::now();
    let end = wait(&mut child, limits.time).map_err(|error| could_not_start(error.into()))?;
    let judged = judge(end, limits, &files);
    info!(
        seconds = started.elapsed().as_secs_f64(),
        ok = judged.is_ok(),
        "child process `{}` ended",
        verb.as_str()
    );
    relay(&files, judged.is_err(), say);
    judged
}

/// Shows what the child had to say: warnings of its plugins, as a rule. The end of what a child that failed said is in
/// the reason already.
fn relay(files: &Files, failed: bool, say: &dyn Fn(&str)) {
    let level = if failed {
        LevelFilter::INFO
    } else {
        LevelFilter::WARN
    };
    if LevelFilter::current() >= level {
        read_log(&files.errors).lines().for_each(say);
    }
}

struct Files {
    job: PathBuf,
    result: PathBuf,
    errors: PathBuf,
}

impl Files {
    fn new(folder: &Path) -> Self {
        Self {
            job: folder.join("job.json"),
            result: folder.join("result.json"),
            errors: folder.join("stderr"),
        }
    }
}

fn start<J: Serialize>(verb: Verb, job: &J, limits: Limits, files: &Files) -> Result<Child> {
    fs::write(&files.job, serde_json::to_vec(job)?).context("write its job")?;
    let errors = fs::File::create(&files.errors).context("create its log")?;
    let mut command = Command::new(env::current_exe().context("find this program")?);
    if env::var_os(LOG_VARIABLE).is_none() {
        command.env(LOG_VARIABLE, LevelFilter::current().to_string());
    }
    if LevelFilter::current() < LevelFilter::DEBUG {
        // The reason of a row quotes the end of the log, where a backtrace would hide the sentence that matters.
        command.env("RUST_BACKTRACE", "0");
    }
    command
        .arg(CHILD_COMMAND)
        .arg(verb.as_str())
        .arg(&files.job)
        .arg(&files.result)
        .args(limits.memory.map(|bytes| bytes.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::from(errors.try_clone()?))
        .stderr(if verb == Verb::Quantize {
            Stdio::inherit()
        } else {
            Stdio::from(errors)
        })
        // A group of its own, so that whatever the plugin started ends with it.
        .process_group(0)
        .spawn()
        .context("start this program again")
}

/// How the waiting for a child ended.
#[derive(Clone, Copy)]
enum End {
    Exited(ExitStatus),
    TimedOut,
    Interrupted,
}

/// Waits for the child; kills it, with all that it started, at the limit and when this process is told to stop.
fn wait(child: &mut Child, limit: Option<Duration>) -> std::io::Result<End> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        let end = match (interrupt::pending(), limit) {
            (Some(_), _) => Some(End::Interrupted),
            (None, Some(limit)) if started.elapsed() >= limit => Some(End::TimedOut),
            (None, _) => None,
        };
        if let Some(end) = end {
            kill_group(child);
            child.wait()?;
            return Ok(end);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill_group(child: &mut Child) {
    let group = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // Fails only when every process of the group has ended by itself, which is as good.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

fn judge<R: DeserializeOwned>(end: End, limits: Limits, files: &Files) -> Result<R, ChildFailure> {
    let status = match end {
        End::Exited(status) => status,
        End::TimedOut => {
            let seconds = limits.time.unwrap_or_default().as_secs_f64();
            let reason = format!("it ran longer than {seconds} s and was stopped");
            return Err(ChildFailure::died(Status::TimedOut, reason));
        }
        End::Interrupted => {
            return Err(ChildFailure::died(
                Status::NoResult,
                "it was stopped with the run".to_owned(),
            ));
        }
    };
    let quoted = last_lines(&files.errors);
    if let Some(signal) = status.signal() {
        let name = signal_name(signal);
        // Rust's and C++'s words for a refused allocation; the process aborts after them.
        let log = read_log(&files.errors);
        let refused = ["memory allocation of", "bad_alloc"]
            .iter()
            .any(|words| log.contains(words));
        if let Some(bytes) = limits.memory.filter(|_| refused) {
            let limit = bytes as f64 / 1e9;
            let reason = format!("it needs more than the limit of {limit} GB{quoted}");
            return Err(ChildFailure::died(Status::OutOfMemory, reason));
        }
        return Err(ChildFailure::died(
            Status::Crashed,
            format!("it died of signal {signal} ({name}){quoted}"),
        ));
    }
    let code = status.code().unwrap_or_default();
    let no_result = |what: &str| {
        let reason = format!("the process ended with exit code {code} {what}{quoted}");
        Err(ChildFailure::died(Status::NoResult, reason))
    };
    let Ok(bytes) = fs::read(&files.result) else {
        return no_result("without leaving a result");
    };
    match serde_json::from_slice::<Report<R>>(&bytes) {
        Ok(Report::Done(result)) if status.success() => Ok(result),
        // Its work was done, but something that it left running or registered failed at its exit.
        Ok(Report::Done(_)) => no_result("after leaving a result"),
        Ok(Report::Failed {
            status,
            reason,
            usage,
        }) => Err(ChildFailure {
            status,
            reason,
            reported: true,
            usage,
        }),
        Err(error) => no_result(&format!("and left a result that cannot be read ({error})")),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => "SIGILL, an instruction that this machine does not know",
        6 => "SIGABRT, it gave itself up",
        7 => "SIGBUS, a mapped file was cut short or memory failed",
        8 => "SIGFPE",
        9 => "SIGKILL, as the kernel sends when memory runs out",
        11 => "SIGSEGV, it touched memory that is not its own",
        15 => "SIGTERM, somebody stopped it",
        _ => "see `kill -l`",
    }
}

/// The end of what a child wrote; nothing when it did not come so far.
fn read_log(path: &Path) -> String {
    bounded::read_end(path, LOG_END)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The end of a log in one line, ready to be appended to a sentence.
fn last_lines(path: &Path) -> String {
    let text = read_log(path);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let quoted: Vec<String> = lines[lines.len().saturating_sub(QUOTED_LINES)..]
        .iter()
        .map(|line| line.chars().take(QUOTED_CHARACTERS).collect())
        .collect();
    let quoted = quoted.join(" / ");
    if quoted.is_empty() {
        String::new()
    } else {
        format!("; its last words: {quoted}")
    }
}

/// An error inside the child, with the status of the cell that it belongs to.
pub type ChildResult<R> = Result<R, (Status, anyhow::Error)>;

/// The child's side: reads the job, does it, and leaves the result.
///
/// # Errors
/// The job cannot be read or the result cannot be written.
pub fn serve<J: DeserializeOwned, R: Serialize>(
    job: &Path,
    result: &Path,
    memory: Option<u64>,
    body: impl FnOnce(J) -> ChildResult<R>,
) -> Result<()> {
    // The parent may be killed at any moment; a child that outlived it would go on using the machine unseen.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if let Some(bytes) = memory {
        let limit = rustix::process::Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        rustix::process::setrlimit(rustix::process::Resource::Data, limit)?;
    }
    let job = serde_json::from_slice(&fs::read(job)?)?;
    let report = match body(job) {
        Ok(result) => Report::Done(result),
        Err((status, error)) => Report::Failed {
            status,
            reason: format!("{error:#}"),
            usage: failure::is_usage(&error),
        },
    };
    let unfinished = result.with_extension("part");
    fs::write(&unfinished, serde_json::to_vec(&report)?)?;
    fs::rename(unfinished, result)?;
    Ok(())
}
