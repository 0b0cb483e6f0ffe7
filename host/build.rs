//! Records the commit that a release is built from, for the manifest of a run.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A debug build would be built anew after each commit for the sake of this.
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if let Some(commit) = release.then(commit).flatten() {
        println!("cargo::rustc-env=QBENCH_COMMIT={commit}");
    }
}

/// The commit, with `-dirty` where files differ from it; `None` outside a repository.
fn commit() -> Option<String> {
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    // Whether files differ from it is asked again when some that the program is made of were changed.
    for sources in ["src", "templates", "../core/src", "../sdk", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={sources}");
    }
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let dirty = if changed.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}"))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
