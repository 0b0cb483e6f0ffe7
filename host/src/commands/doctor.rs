//! `qbench doctor`: what this machine offers, what is missing, and why.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::Result;
use qbench_core::measure::energy::{Powercap, Sampler};
use serde_json::json;

use super::plugin::print_registry;
use crate::{
    cli::{OutputArgs, PluginDirArgs},
    plugins::{PLUGIN_PATH_VARIABLE, Registry, standard_directories},
    printer,
    run::all_cores,
    share,
};

/// One thing that was looked for.
struct Finding {
    what: &'static str,
    found: Result<String, String>,
}

pub(super) fn doctor(arguments: &PluginDirArgs, output: &OutputArgs) -> Result<ExitCode> {
    let findings = findings();
    let registry = Registry::discover(&arguments.search(Vec::new()), true)?;
    if output.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| match &finding.found {
                Ok(found) => json!({ "what": finding.what, "found": found }),
                Err(reason) => json!({ "what": finding.what, "missing": reason }),
            })
            .collect();
        printer::json(&json!({
            "schema": "qbench.doctor/1",
            "findings": findings,
            "plugins": registry,
            "searched": standard_directories(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for finding in &findings {
        match &finding.found {
            Ok(found) => printer::out(&format!("ok       {:<14} {found}", finding.what)),
            Err(reason) => printer::out(&format!("missing  {:<14} {reason}", finding.what)),
        }
    }
    printer::out("");
    print_registry(&registry);
    printer::out(&format!(
        "plugins are looked for in (add to them with {PLUGIN_PATH_VARIABLE} or --plugin-dir):"
    ));
    for directory in standard_directories() {
        printer::out(&format!("  {}", directory.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn findings() -> Vec<Finding> {
    let shown = |path: Result<PathBuf>| {
        path.map(|path| path.display().to_string())
            .map_err(|e| e.to_string())
    };
    vec![
        Finding {
            what: "cores",
            found: Ok(all_cores().to_string()),
        },
        Finding {
            what: "memory",
            found: memory(),
        },
        Finding {
            what: "default model",
            found: shown(share::default_model()),
        },
        Finding {
            what: "default data",
            found: shown(share::default_data()),
        },
        Finding {
            what: "energy",
            found: Powercap::open().map(|meter| meter.source()),
        },
        Finding {
            what: "NVIDIA driver",
            found: nvidia_driver(),
        },
        Finding {
            what: "Slurm",
            found: program("sbatch", "cluster sweeps need it"),
        },
    ]
}

fn memory() -> Result<String, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|error| format!("/proc/meminfo: {error}"))?;
    let kilobytes = |key: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    match (kilobytes("MemTotal:"), kilobytes("MemAvailable:")) {
        (Some(total), Some(free)) => Ok(format!(
            "{:.1} GB, {:.1} GB available",
            total * 1024.0 / 1e9,
            free * 1024.0 / 1e9
        )),
        _ => Err("/proc/meminfo does not say".to_owned()),
    }
}

fn nvidia_driver() -> Result<String, String> {
    const VERSION: &str = "/proc/driver/nvidia/version";
    fs::read_to_string(VERSION)
        .map(|text| text.lines().next().unwrap_or_default().trim().to_owned())
        .map_err(|_| {
            format!("{VERSION} is not there: no NVIDIA driver is loaded, GPU backends find no device")
        })
}

fn program(name: &str, why: &str) -> Result<String, String> {
    let directories: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    let found = directories
        .iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found
        .map(|path| path.display().to_string())
        .ok_or_else(|| format!("`{name}` is not on PATH; {why}"))
}
