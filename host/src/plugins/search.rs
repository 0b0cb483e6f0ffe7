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
    /// Hashes of the only files that may be loaded, as 64 hexadecimal digits; any file may where none is named.
    pub allowed: Vec<String>,
}

/// A file that may be a plugin.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub path: PathBuf,
    /// Whether the user named the file itself.
    pub named: bool,
    /// The place that it was found in.
    pub place: &'static str,
}

/// A directory that is searched without being named.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is, for people.
    pub name: &'static str,
    pub directory: PathBuf,
}

impl Candidate {
    /// A file that the user named.
    pub(super) fn named(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            named: true,
            place: "named on the command line",
        }
    }
}

impl SearchPath {
    /// All candidates, in order of precedence, each file once.
    ///
    /// # Errors
    /// A directory named with `--plugin-dir` that cannot be read.
    pub fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = self.files.iter().map(|path| Candidate::named(path)).collect();
        for directory in &self.directories {
            let found = plugins_in(directory, "--plugin-dir").with_context(|| {
                format!(
                    "--plugin-dir {}: expected a directory that can be read",
                    directory.display()
                )
            })?;
            candidates.extend(found);
        }
        for place in standard_places() {
            // These need not exist.
            candidates.extend(plugins_in(&place.directory, place.name).unwrap_or_default());
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

    /// Refuses a file that is not among those that the user pinned.
    ///
    /// # Errors
    /// Its hash, in the form that `--plugin-allow` takes.
    pub(super) fn check_pin(&self, sha256: &str) -> Result<()> {
        if self.allowed.is_empty() || self.allowed.iter().any(|allowed| allowed == sha256) {
            return Ok(());
        }
        bail!(
            "it is not among the files that --plugin-allow names: it is sha256:{sha256}; allow that too if you trust it"
        )
    }
}

/// The places that are searched without being named, never the working directory.
pub fn standard_places() -> Vec<Place> {
    let place = |name, directory| Place { name, directory };
    let mut places: Vec<Place> = env::var_os(PLUGIN_PATH_VARIABLE)
        .map(|value| {
            env::split_paths(&value)
                .filter(|path| path.is_absolute())
                .map(|path| place("$QBENCH_PLUGIN_PATH", path))
                .collect()
        })
        .unwrap_or_default();
    if let Some(directory) = executable_directory() {
        places.extend([
            place("beside the program", directory.clone()),
            place("deps/ beside the program", directory.join("deps")),
            place("plugins/ beside the program", directory.join("plugins")),
            place(
                "the program's ../lib/qbench/plugins",
                directory.join("../lib/qbench/plugins"),
            ),
        ]);
    }
    // One that is empty or relative would be the working directory's.
    let absolute = |variable| {
        env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data_home =
        absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    places.extend(data_home.map(|path| place("the user's data directory", path.join("qbench/plugins"))));
    places
}

/// The directories of [`standard_places`].
pub fn standard_directories() -> Vec<PathBuf> {
    standard_places()
        .into_iter()
        .map(|place| place.directory)
        .collect()
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
fn plugins_in(directory: &Path, place: &'static str) -> Result<Vec<Candidate>> {
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
        .map(|path| Candidate {
            path,
            named: false,
            place,
        })
        .collect())
}

/// Links that are followed from a name to a file.
const MAX_LINKS: usize = 40;

/// Refuses a file that somebody else could have put there or changed: the file, its directory, and the directory of
/// every link on the way to it.
///
/// # Errors
/// Which of them others may write.
pub fn check_permissions(path: &Path) -> Result<()> {
    let mut path = std::path::absolute(path).context("the file cannot be found")?;
    for _ in 0..MAX_LINKS {
        if let Some(directory) = path.parent() {
            check_mode(
                &directory
                    .canonicalize()
                    .context("its directory cannot be opened")?,
            )?;
        }
        let Ok(target) = fs::read_link(&path) else {
            return check_mode(&path);
        };
        // A relative target starts at the link's directory; an absolute one replaces it.
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    bail!("more than {MAX_LINKS} links lead to it")
}

fn check_mode(path: &Path) -> Result<()> {
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    let mode = fs::metadata(path)
        .context("the file cannot be opened")?
        .permissions()
        .mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        bail!(
            "{} may be written by everybody (mode {:o}): a plugin runs with your rights; `chmod o-w` it first",
            path.display(),
            mode & 0o7777
        );
    }
    Ok(())
}
