//! Energy of a GPU while a command works: the sampler of a run, around any program.
//!
//! `energy_of cuda:0 TRACE.json COMMAND…` starts the command and waits until it prints `ready`, watches the idle device,
//! writes an empty line to the command's standard input, takes the time from there to its line `done` for the work, and
//! watches the idle device again. It prints the figures as JSON, and writes the trace.
#![allow(clippy::print_stdout, reason = "a program for the command line")]

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, ensure};
use qbench::energy::{Recorder, nvml, open};
use qbench_core::measure::energy::TimedRegion;
use qbench_sdk::backend::DeviceInfo;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [device, trace_file, program, rest @ ..] = arguments.as_slice() else {
        return Err(anyhow!("usage: energy_of DEVICE TRACE.json COMMAND…"));
    };
    let device = DeviceInfo {
        id: device.clone(),
        ..DeviceInfo::default()
    };
    match nvml::facts(&device) {
        Ok(facts) => println!("{}", serde_json::to_string_pretty(&facts)?),
        Err(reason) => println!("no facts: {reason}"),
    }
    let mut child = Command::new(program)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut input = child.stdin.take().context("its standard input")?;
    let mut lines = BufReader::new(child.stdout.take().context("its standard output")?).lines();
    let mut wait_for = |word: &str| -> Result<()> {
        for line in lines.by_ref() {
            let line = line?;
            if line == word {
                return Ok(());
            }
            println!("{line}");
        }
        Err(anyhow!("{program} ended before it printed `{word}`"))
    };
    wait_for("ready")?;
    let mut recorder = Recorder::start(open(&device).map_err(|reason| anyhow!(reason))?);
    recorder.begin();
    input.write_all(b"\n")?;
    wait_for("done")?;
    recorder.end();
    let (energy, trace) = recorder.finish().map_err(|reason| anyhow!(reason))?;
    drop(input);
    println!("{}", serde_json::to_string_pretty(&energy)?);
    serde_json::to_writer(File::create(trace_file)?, &trace)?;
    ensure!(child.wait()?.success(), "{program} failed");
    Ok(())
}
