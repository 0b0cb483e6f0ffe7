//! Asking a file what it offers, in a child process.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow};
use qbench_sdk::{
    Options, PluginManifest, SchemeInfo,
    backend::{BackendInfo, DeviceInfo},
};
use serde::{Deserialize, Serialize};

use super::{SchemeChoice, load};
use crate::{
    child::{self, Limits, Verb},
    failure::usage,
    printer,
};

/// A plugin that takes longer than this to say what it offers is refused.
const SCAN_LIMITS: Limits = Limits {
    time: Some(Duration::from_secs(20)),
    memory: None,
};

/// What a plugin file offers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// The interface that it was built for: `rust 1.0.0`, `c 1`.
    pub abi: String,
    pub manifest: PluginManifest,
    pub schemes: Vec<SchemeInfo>,
    pub backends: Vec<BackendInfo>,
    /// For each backend, the devices it found or why it found none; empty unless asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceReport>,
}

/// The devices of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    pub backend: String,
    pub devices: Result<Vec<DeviceInfo>, String>,
}

/// What the child is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScanJob {
    pub path: std::path::PathBuf,
    /// Whether backends are to look for devices.
    pub devices: bool,
}

/// Opens the file and lists what it offers. Called in the child.
///
/// # Errors
/// Why it is no plugin.
pub fn scan_in_this_process(job: &ScanJob) -> Result<Offer> {
    let plugin = load(&job.path)?;
    let backends = plugin.backends()?;
    let mut devices = Vec::new();
    if job.devices {
        for info in &backends {
            let found = plugin
                .open_backend(&info.id, &Options::none())
                .and_then(|backend| backend.devices())
                .map_err(|error| error.to_string());
            devices.push(DeviceReport {
                backend: info.id.clone(),
                devices: found,
            });
        }
    }
    Ok(Offer {
        abi: plugin.abi(),
        manifest: plugin.manifest()?,
        schemes: plugin.schemes()?,
        backends,
        devices,
    })
}

/// Asks a child process what the file at `path` offers.
///
/// # Errors
/// Why it is refused: the child's error, or how the child ended.
pub(super) fn scan(path: &Path, devices: bool) -> Result<Offer> {
    let job = ScanJob {
        path: path.to_path_buf(),
        devices,
    };
    child::run::<_, Offer>(Verb::Scan, &job, SCAN_LIMITS, &printer::note).map_err(|failure| {
        if failure.reported {
            anyhow!("{}", failure.reason)
        } else {
            anyhow!("while it was loaded, {}", failure.reason)
        }
    })
}

/// Opens a scheme with its options, in a child process.
///
/// # Errors
/// What the scheme says of them.
pub fn check_options(scheme: &SchemeChoice) -> Result<()> {
    child::run::<_, ()>(Verb::Check, scheme, SCAN_LIMITS, &printer::note)
        .map_err(|failure| usage(anyhow!("mode `{}`: {}", scheme.mode, failure.reason)))
}

/// The child's side of [`check_options`].
///
/// # Errors
/// What the scheme says of its options.
pub fn check_in_this_process(scheme: &SchemeChoice) -> Result<()> {
    load(&scheme.path)?.open_scheme(&scheme.id, &scheme.options)?;
    Ok(())
}
