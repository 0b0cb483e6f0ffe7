//! Finding CUDA's libraries. cudarc opens them by bare name; what the process has open already under that name is what
//! it gets, so they are opened here first, also from places where the loader does not look: Python's wheels.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};

/// A colon-separated list of folders that are looked in first.
const VARIABLE: &str = "QBENCH_CUDA_LIBS";

/// What candle's device opens, each library after those that it needs itself.
const NEEDED: [&str; 3] = ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"];

/// Opens the driver's library. cudarc panics where it is missing.
pub(crate) fn open_driver() -> Result<(), String> {
    open(Path::new("libcuda.so.1"))
        .map_err(|error| format!("the NVIDIA driver's library libcuda.so.1 is not here ({error})"))
}

/// Opens the libraries that candle's device needs and keeps them open.
pub(crate) fn open_cuda() -> Result<(), String> {
    let folders = folders();
    for name in NEEDED {
        let candidates =
            std::iter::once(PathBuf::from(name)).chain(folders.iter().map(|folder| folder.join(name)));
        let mut first = None;
        let opened = candidates
            .filter(|path| path.parent() == Some(Path::new("")) || path.is_file())
            .any(|path| match open(&path) {
                Ok(()) => true,
                Err(error) => {
                    first.get_or_insert(error);
                    false
                }
            });
        if !opened {
            return Err(format!(
                "{name} is missing ({}); install CUDA 13's libraries (`pip install nvidia-cublas nvidia-curand`), or \
                 set {VARIABLE} to the folder that holds them",
                first.unwrap_or_default()
            ));
        }
    }
    Ok(())
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

fn folders() -> Vec<PathBuf> {
    let listed = env::var_os(VARIABLE).unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&listed)
        .filter(|path| path.is_absolute())
        .collect();
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
