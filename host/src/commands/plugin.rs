//! `qbench plugin list` and `qbench plugin info`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use serde_json::json;

use crate::{
    cli::{OutputArgs, PluginInfoArgs, PluginListArgs},
    plugins::{PluginFile, Registry, Sidecar, examine, sidecar_path, standard_directories},
    printer,
    run::is_file_name,
};

pub(super) fn list(arguments: &PluginListArgs, output: &OutputArgs) -> Result<ExitCode> {
    let search = arguments.plugin_dirs.search(arguments.plugin.clone());
    let registry = Registry::list(&search)?;
    let searched: Vec<PathBuf> = search
        .directories
        .iter()
        .cloned()
        .chain(standard_directories())
        .collect();
    if output.json {
        printer::json(&json!({
            "schema": "qbench.plugins/1",
            "files": registry.files,
            "refused": registry.refused,
            "shadowed": registry.shadowed,
            "searched": searched,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print_registry(&registry);
    if registry.files.is_empty() {
        printer::out("no plugin was found in:");
        for directory in searched {
            printer::out(&format!("  {}", directory.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn info(arguments: &PluginInfoArgs, output: &OutputArgs) -> Result<ExitCode> {
    let name = &arguments.plugin;
    let search = arguments.plugin_dirs.search(Vec::new());
    let path = if is_file_name(name) {
        PathBuf::from(name)
    } else {
        Registry::list(&search)?.file_of(name)?.path.clone()
    };
    let file = examine(&path, &search, !arguments.write)?;
    let sidecar = Sidecar::new(&file.sha256, file.offer.clone());
    let written = arguments.write.then(|| sidecar.write(&file.path)).transpose()?;
    if output.json {
        printer::json(&json!({
            "schema": "qbench.plugin-info/1",
            "file": file,
            "sidecar": sidecar_path(&file.path),
            "written": written.is_some(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print_file(&file);
    if let Some(written) = written {
        printer::out(&format!("written: {}", written.display()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn print_registry(registry: &Registry) {
    for file in &registry.files {
        print_file(file);
    }
    for refused in &registry.refused {
        printer::out(&format!(
            "refused  {}\n         {}",
            refused.path.display(),
            refused.reason
        ));
    }
    for shadowed in &registry.shadowed {
        printer::out(&format!(
            "hidden   {}\n         by the file of the same name in a place that comes first: {}",
            shadowed.path.display(),
            shadowed.by.display()
        ));
    }
}

fn print_file(file: &PluginFile) {
    let manifest = &file.offer.manifest;
    let or = |text: &str, other: &str| {
        if text.is_empty() {
            other.to_owned()
        } else {
            text.to_owned()
        }
    };
    printer::out(&format!("{} {}", manifest.name, manifest.version));
    printer::out(&format!("  file     {} ({})", file.path.display(), file.place));
    printer::out(&format!("  sha256:{}", file.sha256));
    printer::out(&format!(
        "  ABI      {}{}, licence {}",
        file.offer.abi,
        if manifest.sdk.is_empty() {
            String::new()
        } else {
            format!(", sdk {}", manifest.sdk)
        },
        or(&manifest.license, "not named")
    ));
    if file.from_sidecar {
        printer::out("  told by  the manifest beside it; the plugin was not run");
    }
    if let Some(problem) = &file.sidecar_problem {
        printer::out(&format!(
            "  warning  the manifest beside it was not used: {problem}"
        ));
    }
    for scheme in &file.offer.schemes {
        let also = if scheme.aliases.is_empty() {
            String::new()
        } else {
            format!(" (also {})", scheme.aliases.join(", "))
        };
        printer::out(&format!("  mode     {}{also}: {}", scheme.id, scheme.summary));
        for (name, default) in &scheme.options {
            printer::out(&format!("             option {name}={default}"));
        }
    }
    for backend in &file.offer.backends {
        printer::out(&format!("  backend  {}: {}", backend.id, backend.summary));
        printer::out(&format!("             runs {}", backend.architectures.join(", ")));
        let report = file
            .offer
            .devices
            .iter()
            .find(|report| report.backend == backend.id);
        match report.map(|report| &report.devices) {
            Some(Ok(devices)) => {
                for device in devices {
                    printer::out(&format!(
                        "             device {}: {} {}",
                        device.id, device.name, device.details
                    ));
                }
            }
            Some(Err(reason)) => printer::out(&format!("             no device: {reason}")),
            None => {}
        }
    }
    printer::out("");
}
