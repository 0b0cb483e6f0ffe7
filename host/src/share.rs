//! The default model and data, which come with the program.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};

use crate::{failure::usage, plugins::executable_directory};

/// Environment variable with the directory of the default model and data.
pub const SHARE_VARIABLE: &str = "QBENCH_SHARE";

/// Fragments a genome of the default data that a run takes.
pub const DEFAULT_FRAGMENTS_PER_GENOME: usize = 2;

const MODEL: &str = "go-mini-12m";
const DATA: &str = "data/eval.csv";

/// The default model's directory.
///
/// # Errors
/// Where it was looked for.
pub fn default_model() -> Result<PathBuf> {
    find(MODEL, "--model")
}

/// The default sequences' file.
///
/// # Errors
/// Where it was looked for.
pub fn default_data() -> Result<PathBuf> {
    find(DATA, "--data")
}

fn find(name: &str, option: &str) -> Result<PathBuf> {
    let places = places();
    let found = places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.exists());
    found.ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        usage(anyhow!(
            "the default {name} was not found in {}: name your own with {option}, or set {SHARE_VARIABLE}",
            places.join(", ")
        ))
    })
}

/// `$QBENCH_SHARE`, the installation's share directory, and the source tree that the program was built in.
fn places() -> Vec<PathBuf> {
    if let Some(share) = env::var_os(SHARE_VARIABLE) {
        return vec![PathBuf::from(share)];
    }
    let mut places = Vec::new();
    if let Some(directory) = executable_directory() {
        places.push(directory.join("../share/qbench"));
        // The build tree may have been moved since: `target/release/qbench` lies in it.
        places.extend(
            directory
                .ancestors()
                .skip(1)
                .take(3)
                .map(|ancestor| ancestor.join("examples")),
        );
    }
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"));
    places
}
