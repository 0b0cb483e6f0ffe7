//! `qbench plugin list`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::{
    cli::{OutputArgs, PluginListArgs},
    plugins::{PluginFile, Registry, SearchPath, standard_directories},
    printer,
};

pub(super) fn list(arguments: &PluginListArgs, output: &OutputArgs) -> Result<ExitCode> {
    let search = SearchPath {
        files: arguments.plugin.clone(),
        directories: arguments.plugin_dirs.plugin_dir.clone(),
    };
    let registry = Registry::discover(&search, true)?;
    if output.json {
        printer::json(&json!({
            "schema": "qbench.plugins/1",
            "files": registry.files,
            "refused": registry.refused,
            "shadowed": registry.shadowed,
            "searched": search.directories.iter().cloned().chain(standard_directories()).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print_registry(&registry);
    if registry.files.is_empty() {
        printer::out("no plugin was found in:");
        for directory in search.directories.iter().cloned().chain(standard_directories()) {
            printer::out(&format!("  {}", directory.display()));
        }
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
    printer::out(&format!(
        "{} {} (sdk {}, {})\n  {}\n  sha256 {}",
        manifest.name,
        manifest.version,
        manifest.sdk,
        if manifest.license.is_empty() {
            "no licence named"
        } else {
            &manifest.license
        },
        file.path.display(),
        file.sha256
    ));
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
