//! A task, on whatever machine it was sent to.

use std::{collections::HashSet, env, process::ExitCode};

use anyhow::{Context, Result, anyhow};
use qbench_core::{results::Cell, sweep::finished_cells};
use serde_json::Value;

use super::{Sweep, SweepDirectory, directory::ConfigurationFile, options};
use crate::{
    failure::{self, usage},
    hash::sha256_of_file,
    interrupt,
    plugins::Registry,
    printer,
    run::{Devices, OutDir, Plan, Session},
};

/// Runs the cells of a task that no earlier attempt has finished, into a directory of its own.
///
/// # Errors
/// Program, plugins, model or data are not those that the sweep was made with; results cannot be written.
pub fn run_task(directory: &SweepDirectory, number: usize, quiet: bool) -> Result<ExitCode> {
    let sweep = directory.sweep()?;
    let task = directory.task(number)?;
    printer::note(&format!("task {number} of sweep {} on {}", sweep.name, place()));
    interrupt::install()?;
    env::set_current_dir(&sweep.working_directory).with_context(|| {
        format!(
            "enter {}, where the sweep was made",
            sweep.working_directory.display()
        )
    })?;
    let finished = finished_cells(&directory.journals(number)?)?;
    let wanted: HashSet<&Cell> = task
        .cells
        .iter()
        .filter(|cell| !finished.contains(cell))
        .collect();
    if !finished.is_empty() {
        printer::note(&format!(
            "{} of {} cells were finished by earlier attempts",
            task.cells.len() - wanted.len(),
            task.cells.len()
        ));
    }
    if wanted.is_empty() {
        return Ok(ExitCode::from(failure::OK));
    }
    check_program(&sweep)?;
    let file = directory.configuration(task.configuration)?;
    let plan = match resolve(&file) {
        // Plugins that were ended while they said what they are must not look as if they were broken.
        Err(_) if let Some(signal) = interrupt::pending() => {
            printer::note(&format!("stopped by signal {signal} before the first cell"));
            return Ok(ExitCode::from(128 + signal));
        }
        plan => plan?,
    };
    let path = directory.new_attempt(number)?;
    let (outdir, schedule) = OutDir::of_attempt(&path, &plan, |cell| wanted.contains(cell))?;
    let scheduled = schedule.cells().count();
    if scheduled != wanted.len() {
        return Err(anyhow!(
            "{} of the task's {} cells are none that this program knows",
            wanted.len() - scheduled,
            wanted.len()
        ));
    }
    let mut session = Session::new(&plan, schedule, outdir, false, quiet);
    session.run()?;
    Ok(ExitCode::from(match interrupt::pending() {
        Some(signal) => 128 + signal,
        None if session.failed > 0 => failure::VERDICT,
        None => failure::OK,
    }))
}

/// Where this runs, in words.
fn place() -> String {
    let node = env::var("SLURMD_NODENAME").ok();
    let node = node.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    match env::var("SLURM_JOB_ID") {
        Ok(job) => {
            let restarts = env::var("SLURM_RESTART_COUNT").unwrap_or_else(|_| "0".to_owned());
            format!("{node}, job {job}, restart {restarts}")
        }
        Err(_) => node,
    }
}

fn check_program(sweep: &Sweep) -> Result<()> {
    let program = env::current_exe()?;
    if sha256_of_file(&program)? == sweep.program_sha256 {
        return Ok(());
    }
    Err(changed(&format!("the program {}", program.display())))
}

fn changed(what: &str) -> anyhow::Error {
    usage(anyhow!(
        "{what} is not what it was when the sweep was made, and cells of both must not be mixed: put the old one back \
         and resume, or start a new sweep"
    ))
}

/// The plan of a configuration, as it was when the sweep was made.
fn resolve(file: &ConfigurationFile) -> Result<Plan> {
    let arguments = options::parse(&file.arguments)?;
    let registry = Registry::discover(&arguments.plugin_dirs.search(Vec::new()), true)?;
    let mut plan = Plan::resolve(&arguments, &registry, Devices::Here)?;
    plan.configuration.variant.clone_from(&file.variant);
    let now = serde_json::to_value(&plan)?;
    check_unchanged(&file.plan, &now)?;
    Ok(plan)
}

/// What a cell's numbers depend on must be the same; where plugins lie, and what a device is called, may differ.
fn check_unchanged(then: &Value, now: &Value) -> Result<()> {
    let configuration = |name: &str| format!("/configuration/{name}");
    for (what, pointer) in [
        ("the model", configuration("model_sha256")),
        ("the data", configuration("data_sha256")),
        ("the backend's plugin", configuration("backend/sha256")),
        ("the reference's plugin", "/reference/sha256".to_owned()),
    ] {
        if then.pointer(&pointer) != now.pointer(&pointer) {
            return Err(changed(what));
        }
    }
    let hashes = |plan: &Value| -> Vec<(Value, Value)> {
        let modes = plan["modes"].as_array().into_iter().flatten();
        modes
            .map(|mode| (mode["mode"].clone(), mode["sha256"].clone()))
            .collect()
    };
    let (then, now) = (hashes(then), hashes(now));
    match then.iter().find(|mode| !now.contains(mode)) {
        Some((mode, _)) => Err(changed(&format!(
            "the plugin of mode {}",
            mode.as_str().unwrap_or("?")
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_numbers_depend_on_must_be_unchanged() {
        let plan = |model: &str, mode: &str| {
            json!({
                "configuration": {"model_sha256": model, "data_sha256": "d", "backend": {"sha256": "b", "path": model}},
                "modes": [{"mode": "8bit", "sha256": mode}],
                "reference": {"sha256": "r"},
            })
        };
        assert!(check_unchanged(&plan("m", "8"), &plan("m", "8")).is_ok());
        let message = |now: &Value| check_unchanged(&plan("m", "8"), now).unwrap_err().to_string();
        assert!(message(&plan("n", "8")).starts_with("the model is not what it was"));
        assert!(message(&plan("m", "9")).starts_with("the plugin of mode 8bit"));
    }
}
