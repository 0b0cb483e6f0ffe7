//! Where plugins are looked for.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Environment variable with directories of plugins, separated by colons.
pub const PLUGIN_PATH_VARIABLE: &str = "QBENCH_PLUGIN_PATH";

/// The places to look in, in their order of precedence.
#[derive(Clone, Debug, Default)]
pub struct SearchPath {
    /// Files named by the user.
    pub files: Vec<PathBuf>,
    /// Directories named by the user, which must exist.
    pub directories: Vec<PathBuf>,
}

/// A file that may be a plugin.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub path: PathBuf,
    /// Whether the user named the file itself.
    pub named: bool,
}

impl SearchPath {
    /// All candidates, in order of precedence, each file once.
    ///
    /// # Errors
    /// A directory named with `--plugin-dir` that cannot be read.
    pub fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = self
            .files
            .iter()
            .map(|path| Candidate {
                path: path.clone(),
                named: true,
            })
            .collect();
        for directory in &self.directories {
            let found = plugins_in(directory).with_context(|| {
                format!(
                    "--plugin-dir {}: expected a directory that can be read",
                    directory.display()
                )
            })?;
            candidates.extend(found);
        }
        for directory in standard_directories() {
            // These need not exist.
            candidates.extend(plugins_in(&directory).unwrap_or_default());
        }
        let mut seen = Vec::new();
        candidates.retain(|candidate| {
            let real = candidate
                .path
                .canonicalize()
                .unwrap_or_else(|_| candidate.path.clone());
            let new = !seen.contains(&real);
            seen.push(real);
            new
        });
        Ok(candidates)
    }
}

/// The directories that are searched without being named, never the working directory.
pub fn standard_directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = env::var_os(PLUGIN_PATH_VARIABLE)
        .map(|value| {
            env::split_paths(&value)
                .filter(|path| path.is_absolute())
                .collect()
        })
        .unwrap_or_default();
    if let Some(directory) = executable_directory() {
        directories.extend([
            directory.clone(),
            directory.join("deps"),
            directory.join("plugins"),
            directory.join("../lib/qbench/plugins"),
        ]);
    }
    let data_home = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    directories.extend(data_home.map(|path| path.join("qbench/plugins")));
    directories
}

/// The directory of the running program, links resolved.
pub fn executable_directory() -> Option<PathBuf> {
    env::current_exe()
        .ok()?
        .canonicalize()
        .ok()?
        .parent()
        .map(Path::to_path_buf)
}

/// Files named `libqbench_*.so` in `directory`, sorted.
fn plugins_in(directory: &Path) -> Result<Vec<Candidate>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.starts_with("libqbench_") && path.extension() == Some(OsStr::new("so")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths
        .into_iter()
        .map(|path| Candidate { path, named: false })
        .collect())
}

/// Refuses a file that somebody else could have put there or changed.
///
/// # Errors
/// Which of the file and its directory others may write.
pub fn check_permissions(path: &Path) -> Result<()> {
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    let real = path.canonicalize().context("the file cannot be opened")?;
    for checked in [Some(real.as_path()), real.parent()].into_iter().flatten() {
        let mode = fs::metadata(checked)
            .context("its permissions cannot be read")?
            .permissions()
            .mode();
        if mode & WRITABLE_BY_OTHERS != 0 {
            bail!(
                "{} may be written by everybody (mode {:o}): a plugin runs with your rights; `chmod o-w` it first",
                checked.display(),
                mode & 0o7777
            );
        }
    }
    Ok(())
}
