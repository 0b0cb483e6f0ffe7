//! Where libtorch is.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::TORCH;

/// Name the folder `torch` of an install: only there is looked then. `LIBTORCH` is also what torch-sys is built with.
const VARIABLES: [&str; 2] = ["QBENCH_LIBTORCH", "LIBTORCH"];

/// An install of the version that we need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Install {
    /// The folder `torch`, without symbolic links: torch's libraries look for their neighbours by paths from where they
    /// lie.
    pub(crate) folder: PathBuf,
    pub(crate) version: String,
}

impl Install {
    pub(crate) fn library(&self, name: &str) -> PathBuf {
        self.folder.join("lib").join(name)
    }

    /// Whether torch's CUDA libraries came with it.
    pub(crate) fn has_cuda(&self) -> bool {
        self.library("libtorch_cuda.so").exists()
    }
}

/// The install to use: what the environment names, else the first with CUDA, else the first.
///
/// # Errors
/// Where was looked, and why nothing there will do.
pub(crate) fn find() -> Result<Install, String> {
    let named = VARIABLES
        .iter()
        .find_map(|name| Some((name, env::var_os(name).filter(|value| !value.is_empty())?)));
    match named {
        Some((name, folder)) => {
            choose(&[PathBuf::from(folder)]).map_err(|reason| format!("{name} is set: {reason}"))
        }
        None => choose(&usual_places()),
    }
}

fn choose(folders: &[PathBuf]) -> Result<Install, String> {
    let mut reasons = Vec::new();
    let mut installs = Vec::new();
    for folder in folders {
        match look(folder) {
            Ok(install) => installs.push(install),
            Err(reason) => reasons.push(format!("{}: {reason}", folder.display())),
        }
    }
    // Decided before anything is opened: once one libtorch is in a process, every other is hidden by its name.
    let best = installs.iter().position(Install::has_cuda).unwrap_or(0);
    if best < installs.len() {
        return Ok(installs.swap_remove(best));
    }
    // Places without any torch are not worth a line each.
    let other: Vec<String> = reasons
        .into_iter()
        .filter(|reason| folders.len() == 1 || !reason.ends_with(NOTHING))
        .collect();
    let found = if other.is_empty() {
        String::new()
    } else {
        format!(" ({})", other.join("; "))
    };
    Err(format!(
        "no libtorch {TORCH} was found{found}: run plugins/libtorch/setup, or set LIBTORCH to the folder `torch` of an \
         installed PyTorch {TORCH}"
    ))
}

/// How the reason for a folder without libtorch ends.
const NOTHING: &str = "there is no lib/libtorch_cpu.so";

fn look(folder: &Path) -> Result<Install, String> {
    let folder = folder.canonicalize().map_err(|_| NOTHING.to_owned())?;
    if !folder.join("lib/libtorch_cpu.so").exists() {
        return Err(NOTHING.to_owned());
    }
    let version = version(&folder).ok_or("neither version.py nor build-version tells its version")?;
    let right = version
        .strip_prefix(TORCH)
        .is_some_and(|rest| rest.starts_with('.'));
    if right {
        Ok(Install { folder, version })
    } else {
        Err(format!("torch {version}, where {TORCH} is needed"))
    }
}

/// From `version.py` of a wheel (`2.11.0+cu130`) or `build-version` of a libtorch archive.
fn version(folder: &Path) -> Option<String> {
    let python = fs::read_to_string(folder.join("version.py"))
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("__version__"))?;
            line.split(['\'', '"']).nth(1).map(str::to_owned)
        });
    python.or_else(|| {
        let text = fs::read_to_string(folder.join("build-version")).ok()?;
        Some(text.trim().to_owned())
    })
}

/// Beside the program, what `setup` made, and the Python environments that a shell would use.
fn usual_places() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(prefix) = env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::parent)
    {
        folders.push(prefix.join("lib/qbench/libtorch/torch"));
    }
    let home = env::var_os("HOME").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(home.as_ref()?.join(".cache")));
    folders.extend(cache.map(|cache| cache.join("qbench/libtorch/torch")));
    let prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(env::var_os)
        .map(PathBuf::from)
        .chain(pythons())
        .chain(home.map(|home| home.join(".local")))
        .chain(["/usr/local", "/usr"].map(PathBuf::from));
    for prefix in prefixes {
        for python in entries(&prefix.join("lib")) {
            folders.extend(
                ["site-packages", "dist-packages"].map(|packages| python.join(packages).join("torch")),
            );
        }
    }
    folders.retain(|folder| folder.is_absolute());
    folders
}

/// The environments of the `python3`s that a shell would find.
fn pythons() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute() && folder.join("python3").exists())
        .filter_map(|folder| Some(folder.parent()?.to_path_buf()))
        .collect()
}

/// The folders `python3…` of a folder, in order.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like torch's.
    fn torch(root: &Path, name: &str, version: &str, cuda: bool) -> PathBuf {
        let folder = root.join(name).join("torch");
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        if cuda {
            fs::write(folder.join("lib/libtorch_cuda.so"), "").unwrap();
        }
        fs::write(
            folder.join("version.py"),
            format!("from typing import Optional\n__version__ = '{version}'\ndebug = False\n"),
        )
        .unwrap();
        folder
    }

    #[test]
    fn the_right_version_is_chosen_and_cuda_preferred() {
        let root = tempfile::tempdir().unwrap();
        let old = torch(root.path(), "old", "2.1.2", true);
        let newer = torch(root.path(), "newer", "2.110.0", true);
        let cpu = torch(root.path(), "cpu", "2.11.0", false);
        let gpu = torch(root.path(), "gpu", "2.11.0+cu130", true);
        let absent = root.path().join("absent");
        let all = [absent.clone(), old.clone(), newer, cpu.clone(), gpu.clone()];
        let found = choose(&all).unwrap();
        assert_eq!(
            (found.folder.as_path(), found.version.as_str()),
            (gpu.as_path(), "2.11.0+cu130")
        );
        assert!(found.has_cuda());
        assert_eq!(choose(&all[..4]).unwrap().folder, cpu);
        let reason = choose(&all[..3]).unwrap_err();
        for words in [
            "torch 2.1.2, where 2.11 is needed",
            "2.110.0",
            "setup",
            "LIBTORCH",
        ] {
            assert!(reason.contains(words), "`{words}` is not in: {reason}");
        }
        assert!(!reason.contains("absent"), "{reason}");
        assert!(choose(&[absent]).unwrap_err().contains("libtorch_cpu.so"));
    }

    #[test]
    fn an_archive_without_python_tells_its_version_too() {
        let root = tempfile::tempdir().unwrap();
        let folder = torch(root.path(), "archive", "", false);
        fs::remove_file(folder.join("version.py")).unwrap();
        assert!(
            choose(std::slice::from_ref(&folder))
                .unwrap_err()
                .contains("tells its version")
        );
        fs::write(folder.join("build-version"), "2.11.0+cpu\n").unwrap();
        assert_eq!(choose(&[folder]).unwrap().version, "2.11.0+cpu");
    }
}
