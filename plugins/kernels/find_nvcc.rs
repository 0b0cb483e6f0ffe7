//! Where NVIDIA's compiler is, for build scripts.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The environment variables that are asked: a program, and two homes of CUDA.
pub(crate) const VARIABLES: [&str; 3] = ["NVCC", "CUDA_HOME", "CUDA_PATH"];

/// The compiler that the environment names, or that of a system-wide CUDA.
pub(crate) fn nvcc() -> Option<PathBuf> {
    let from_home = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(|variable| Some(Path::new(&env::var_os(variable)?).join("bin/nvcc")));
    env::var_os("NVCC")
        .map(PathBuf::from)
        .into_iter()
        .chain(from_home)
        .chain([PathBuf::from("/usr/local/cuda/bin/nvcc")])
        .find(|path| path.is_file())
}
