//! Opening libraries by their paths.

use std::{fs, path::Path};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::install::Install;

/// Opens a library and keeps it until the process ends.
///
/// # Errors
/// The loader's own words.
pub(crate) fn library(path: &Path) -> Result<Library, String> {
    // SAFETY: the library's initialisers run here: torch's, NVIDIA's, or those of our own implementation. RTLD_LOCAL,
    // since libtorch exports thousands of common names (`sgemm_`, `uv_…`) that other plugins must not be given.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    opened.map_err(|error| {
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })
}

fn keep(path: &Path) -> Result<(), String> {
    // Threads of torch may still run when a library would be closed.
    library(path).map(std::mem::forget)
}

/// Opens libtorch, and its CUDA libraries where it has them, so that whoever needs `libtorch_cpu.so` is given these.
///
/// Must happen before torch is asked anything: it looks for CUDA once, at the first question.
///
/// # Errors
/// The CPU libraries cannot be opened. What hinders CUDA is the inner error.
pub(crate) fn torch(install: &Install) -> Result<Result<(), String>, String> {
    keep(&install.library("libtorch_cpu.so"))?;
    if !install.has_cuda() {
        return Ok(Err("this libtorch has no CUDA libraries".to_owned()));
    }
    let cuda = install.library("libtorch_cuda.so");
    let opened = keep(&cuda).or_else(|_| {
        // Torch and NVIDIA's wheels may lie in different places, which torch's own search paths do not reach.
        open_neighbours(&install.folder);
        keep(&cuda)
    });
    Ok(opened)
}

/// Opens what `nvidia/*/lib` beside the folder holds, in rounds, since each library needs some of the others.
fn open_neighbours(torch: &Path) {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let packages = torch.with_file_name("nvidia");
    let mut left: Vec<_> = entries(&packages)
        .flat_map(|package| entries(&package.path().join("lib")))
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains(".so"))
        .collect();
    loop {
        let before = left.len();
        left.retain(|path| keep(path).is_err());
        if left.is_empty() || left.len() == before {
            break;
        }
    }
}
