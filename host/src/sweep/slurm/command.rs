//! Slurm's commands.

use std::{
    io::{ErrorKind, Read},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::failure::usage;

/// A controller that is gone keeps its clients waiting; longer than this is no answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs a command, and returns what it printed.
///
/// # Errors
/// It is not there, it failed, or it took too long.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = run(command, &name)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    bail!("`{name}` ended with {status}: {}", said.trim())
}

fn run(command: &mut Command, name: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => usage(anyhow!(
                "there is no command `{name}` here: this is no machine of a Slurm cluster, or PATH lacks it"
            )),
            _ => anyhow!(error).context(format!("start `{name}`")),
        })?;
    let pipe = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.map(|mut stream| stream.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = pipe(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = pipe(child.stderr.take().map(|stream| Box::new(stream) as _));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("`{name}` gave no answer within {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let bytes = |thread: thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok(Output {
        status,
        stdout: bytes(stdout),
        stderr: bytes(stderr),
    })
}

/// How many tasks an array may have: `MaxArraySize`, whose indices end one below it.
pub(super) fn array_size() -> Result<usize> {
    let config = output(Command::new("scontrol").args(["show", "config"]))?;
    let size = config
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == "MaxArraySize")
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match size {
        Some(0 | 1) => Err(usage(anyhow!("this Slurm allows no job arrays (MaxArraySize)"))),
        Some(size) => Ok(size),
        None => bail!("`scontrol show config` names no MaxArraySize"),
    }
}

/// Submits a script, to run after `after` have ended in whatever way. Returns the job's id.
pub(super) fn submit(script: &Path, after: &[&String]) -> Result<String> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable");
    if !after.is_empty() {
        let jobs: Vec<&str> = after.iter().map(|job| job.as_str()).collect();
        command.arg(format!("--dependency=afterany:{}", jobs.join(":")));
    }
    let said = output(command.arg(script)).map_err(usage)?;
    // Of several clusters: `id;cluster`.
    let job = said.trim().split(';').next().unwrap_or_default();
    job.parse::<u64>()
        .with_context(|| format!("sbatch said `{}`, expected the id of a job", said.trim()))?;
    Ok(job.to_owned())
}

/// Cancels jobs.
pub(super) fn cancel(jobs: &[String]) -> Result<()> {
    output(Command::new("scancel").args(jobs)).map(drop)
}
