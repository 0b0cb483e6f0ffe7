//! Finding CUDA's libraries. cudarc opens them by bare name; what the process has open already under that name is what
//! it gets, so they are opened here first, also from places where the loader does not look: Python's wheels.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};

/// A colon-separated list of folders that are looked in first.
const VARIABLE: &str = "QBENCH_CUDA_LIBS";

/// NVIDIA's run-time compiler, of each version of CUDA that is looked for.
const COMPILERS: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so.12"];

/// Opens the driver's library. cudarc panics where it is missing.
///
/// # Errors
/// The loader's own words.
pub fn open_driver() -> Result<(), String> {
    open(Path::new("libcuda.so.1"))
        .map_err(|error| format!("the NVIDIA driver's library libcuda.so.1 is not here ({error})"))
}

/// Opens libraries of CUDA by their names, such as `libcublas.so.13`, each after those that it needs itself, and keeps them
/// open. `packages` are those of PyPI that bring them.
///
/// # Errors
/// Which one is missing, and what to do.
pub fn open_all(names: &[&str], packages: &str) -> Result<(), String> {
    names.iter().try_for_each(|name| {
        find(name).map_err(|reason| {
            format!(
                "{name} is missing ({reason}); install CUDA 13's libraries (`pip install {packages}`), or set {VARIABLE} \
                 to the folder that holds them"
            )
        })
    })
}

/// Opens NVRTC, which compiles CUDA C++ at run time. Looks for it once.
///
/// # Errors
/// Why there is none, and what to do.
pub fn open_compiler() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let search = || {
        let mut reason = String::new();
        for name in COMPILERS {
            match find(name) {
                Ok(()) => return Ok(()),
                Err(error) if reason.is_empty() => reason = error,
                Err(_) => {}
            }
        }
        Err(format!(
            "{} is missing ({reason}); install it (`pip install nvidia-cuda-nvrtc`), or set {VARIABLE} to the folder that \
             holds it",
            COMPILERS[0]
        ))
    };
    FOUND.get_or_init(search).clone()
}

/// Opens a library from the first place that has it.
fn find(name: &str) -> Result<(), String> {
    let mut first = None;
    let candidates = listed()
        .into_iter()
        .map(|folder| folder.join(name))
        .chain([PathBuf::from(name)])
        .chain(
            opened_from()
                .into_iter()
                .chain(folders())
                .map(|folder| folder.join(name)),
        );
    for path in candidates {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        if folder.is_some() && !path.is_file() {
            continue;
        }
        if let Some(folder) = folder.filter(|_| COMPILERS.contains(&name)) {
            // The compiler opens these by their bare names when it first compiles.
            for part in entries(folder) {
                let part_name = part.file_name().unwrap_or_default().to_string_lossy();
                if part_name.starts_with("libnvrtc-builtins.so") {
                    let _ = open(&part);
                }
            }
        }
        match open(&path) {
            Ok(()) => return Ok(()),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_default())
}

fn open(path: &Path) -> Result<(), String> {
    // SAFETY: NVIDIA's libraries run nothing but their own initialisers when they are opened.
    match unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) } {
        Ok(library) => {
            // Open until the process ends: cudarc keeps pointers into it.
            std::mem::forget(library);
            Ok(())
        }
        // The loader's own words, where it has any.
        Err(error) => {
            Err(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
        }
    }
}

/// The folders that the user names.
fn listed() -> Vec<PathBuf> {
    let listed = env::var_os(VARIABLE).unwrap_or_default();
    env::split_paths(&listed)
        .filter(|path| path.is_absolute())
        .collect()
}

/// Folders that libraries of CUDA were opened from already, by PyTorch say: what is missing most likely lies beside.
fn opened_from() -> Vec<PathBuf> {
    folders_in(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
}

/// Folders of CUDA's libraries among a process's mapped files.
fn folders_in(maps: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libcudart.so") || name.starts_with("libcublas")
        })
        .filter_map(|path| path.parent().map(Path::to_path_buf))
        .collect();
    folders.dedup();
    folders
}

fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(env::var_os)
        .map(PathBuf::from)
        .chain(pythons())
        .chain(env::var_os("HOME").map(|home| PathBuf::from(home).join(".local")))
        .chain(["/usr/local", "/usr"].map(PathBuf::from));
    for prefix in prefixes {
        for python in entries(&prefix.join("lib")) {
            for packages in ["site-packages", "dist-packages"] {
                folders.extend(
                    entries(&python.join(packages).join("nvidia"))
                        .into_iter()
                        .map(|package| package.join("lib")),
                );
            }
        }
    }
    folders.extend(
        ["CUDA_HOME", "CUDA_PATH"]
            .into_iter()
            .filter_map(env::var_os)
            .map(|home| PathBuf::from(home).join("lib64")),
    );
    folders.push("/usr/local/cuda/lib64".into());
    folders
}

/// The environments of the `python3`s that a shell would find: PyTorch's wheels bring CUDA's libraries.
fn pythons() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute() && folder.join("python3").exists())
        .filter_map(|folder| Some(folder.parent()?.to_path_buf()))
        .collect()
}

/// What a folder holds, in order; nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_are_open_tell_where_others_lie() {
        let maps = "7f00-7f01 r-xp 0 08:01 12   /opt/env/lib/nvidia/cu13/lib/libcublasLt.so.13\n\
                    7f01-7f02 r--p 0 08:01 12   /opt/env/lib/nvidia/cu13/lib/libcublasLt.so.13\n\
                    7f02-7f03 r-xp 0 08:01 13   /usr/lib/libc.so.6\n7f03-7f04 rw-p 0 00:00 0 [heap]\n\
                    7f05-7f06 r-xp 0 08:01 14   /opt/other libs/libcudart.so.13\n";
        assert_eq!(
            folders_in(maps),
            [
                Path::new("/opt/env/lib/nvidia/cu13/lib"),
                Path::new("/opt/other libs")
            ]
        );
    }

    #[test]
    fn a_missing_library_is_named_with_what_to_do() {
        let error = open_all(&["libcublas-of-nobody.so.99"], "nvidia-cublas").unwrap_err();
        assert!(
            error.starts_with("libcublas-of-nobody.so.99 is missing (")
                && error.contains("pip install nvidia-cublas")
                && error.contains("QBENCH_CUDA_LIBS"),
            "{error}"
        );
    }
}
