//! Manifests beside plugins: `libfoo.so.json` keeps what `libfoo.so` offers, so that it need not be run to be listed.
//!
//! A manifest carries the hash of its plugin. One that describes other bytes counts for nothing, and a run never relies
//! on one: it asks the plugin.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use qbench_core::results::write_atomically;
use serde::{Deserialize, Serialize};

use super::{Offer, search::check_permissions};

/// Identifies a manifest, and its revision.
const SCHEMA: &str = "qbench.plugin/1";
/// Longest manifest that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The content of a manifest. Unknown keys are ignored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sidecar {
    schema: String,
    /// Of the plugin file, 64 hexadecimal digits.
    sha256: String,
    #[serde(flatten)]
    offer: Offer,
}

/// Where the manifest of the plugin at `path` lies.
pub fn sidecar_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".json");
    PathBuf::from(name)
}

impl Sidecar {
    /// What the plugin with this hash offers.
    pub fn new(sha256: &str, offer: Offer) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            sha256: sha256.to_owned(),
            // The devices are the machine's, not the plugin's.
            offer: Offer {
                devices: Vec::new(),
                ..offer
            },
        }
    }

    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self> {
        let sidecar: Self = serde_json::from_str(text).context("it is no manifest of a plugin")?;
        ensure!(
            sidecar.schema == SCHEMA,
            "expected `\"schema\": \"{SCHEMA}\"`, found `{}`",
            sidecar.schema
        );
        Ok(sidecar)
    }

    /// Writes it beside the plugin at `path`, whole or not at all. Returns where.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let beside = sidecar_path(path);
        write_atomically(&beside, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            writeln!(file)
        })?;
        Ok(beside)
    }
}

/// What the manifest beside the plugin at `path` says of it; `None` where there is none.
///
/// # Errors
/// Why a manifest that is there cannot be used.
pub(super) fn read(path: &Path, sha256: &str) -> Result<Option<Offer>> {
    let beside = sidecar_path(path);
    match fs::metadata(&beside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // A pipe would be waited for.
        metadata => ensure!(
            metadata.context("it cannot be opened")?.is_file(),
            "it is no regular file"
        ),
    }
    check_permissions(&beside)?;
    let file = File::open(&beside).context("it cannot be opened")?;
    let mut text = String::new();
    let length = file
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .context("it cannot be read")?;
    if length as u64 > MAX_BYTES {
        bail!("it is longer than {MAX_BYTES} bytes");
    }
    let sidecar = Sidecar::parse(&text)?;
    ensure!(
        sidecar.sha256 == sha256,
        "it describes another file, sha256:{}; write it anew with `qbench plugin info --write`",
        sidecar.sha256
    );
    Ok(Some(sidecar.offer))
}
