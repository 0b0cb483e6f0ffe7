//! Opening one plugin file in this process.

use std::{mem::ManuallyDrop, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use qbench_sdk::host::{C_ENTRY_SYMBOL, CEntry, HEADER_SYMBOL, Header, Plugin};

use super::elf;

/// Opens the plugin at `path`. Its library stays loaded until the process ends: threads of it may still run.
///
/// # Errors
/// What was expected and what was found, without the path: the caller names it.
pub fn load(path: &Path) -> Result<Plugin> {
    // A bare name would be searched for in the system's library directories.
    let path = path.canonicalize().with_context(|| "the file cannot be opened")?;
    if !path.is_file() {
        bail!("expected a shared library, found something that is no file");
    }
    elf::check_library(&path)?;
    // SAFETY: the library's initialisers run here. They are the plugin's code, which the user chose to run; that is
    // why this happens in child processes only. RTLD_NOW, so that a missing symbol shows here and not in mid-run.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }
        .map(ManuallyDrop::new)
        .map_err(|error| {
            anyhow!(
                "expected a shared library that loads, found: {}",
                root_cause(&error, &path)
            )
        })?;
    // SAFETY: a library that exports this symbol was made by abi_stable, which exports its header there.
    if let Ok(header) = unsafe { library.get::<Header>(HEADER_SYMBOL.as_bytes()) } {
        return Ok(Plugin::open(*header)?);
    }
    // SAFETY: a library that exports this symbol was compiled with `qbench_plugin.h`, which declares its type.
    let entry = unsafe { library.get::<CEntry>(C_ENTRY_SYMBOL.as_bytes()) }.map_err(|_| {
        anyhow!(
            "expected a qbench plugin, found a shared library without a plugin header (Rust) and without the function \
             {} (C): a plugin in Rust ends with `export_plugin!`, one in C defines that function",
            C_ENTRY_SYMBOL.trim_end_matches('\0')
        )
    })?;
    // SAFETY: as above, and the library is never unloaded.
    Ok(unsafe { Plugin::open_c(*entry) }?)
}

/// The loader's own sentence, without the path that it starts with.
fn root_cause(error: &libloading::Error, path: &Path) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    text.replace(&format!("{}: ", path.display()), "")
}
