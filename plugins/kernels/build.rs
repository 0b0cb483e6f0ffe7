//! Puts one fatbin a CUDA source into `OUT_DIR`: the one in `prebuilt/` when it was made from this very source, else a
//! new one when nvcc is there, else nothing: a stale kernel is never shipped.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

#[path = "find_nvcc.rs"]
mod find_nvcc;

use find_nvcc::{VARIABLES, nvcc};

fn main() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-changed=prebuilt");
    println!("cargo:rerun-if-changed=build-kernels");
    println!("cargo:rerun-if-changed=find_nvcc.rs");
    for variable in VARIABLES {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let mut sources: Vec<PathBuf> = fs::read_dir("cuda")
        .map_err(|error| format!("cuda: {error}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    for source in sources {
        let name = source
            .file_stem()
            .and_then(|stem| stem.to_str())
            .ok_or_else(|| format!("{}: not a name in UTF-8", source.display()))?;
        let prebuilt = Path::new("prebuilt").join(name);
        let recorded = fs::read_to_string(prebuilt.with_extension("sha256")).unwrap_or_default();
        if recorded.trim() == hash(&source)? {
            copy(&prebuilt.with_extension("fatbin"), &out)?;
        } else {
            compile(name, &out)?;
        }
    }
    Ok(())
}

/// SHA-256 of a source followed by the headers beside it that it includes, as `build-kernels` records it.
fn hash(source: &Path) -> Result<String, String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let text = read(source)?;
    let mut hasher = Sha256::new();
    hasher.update(&text);
    for header in text
        .lines()
        .filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'))
    {
        hasher.update(read(&source.with_file_name(header))?);
    }
    let digits =
        |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    Ok(hasher.finalize().iter().flat_map(digits).collect())
}

fn copy(from: &Path, folder: &Path) -> Result<(), String> {
    let name = from.file_name().ok_or("a file")?;
    fs::copy(from, folder.join(name)).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(())
}

fn compile(name: &str, out: &Path) -> Result<(), String> {
    let nvcc = nvcc().ok_or_else(|| {
        format!(
            "plugins/kernels/prebuilt/{name}.fatbin was not made from cuda/{name}.cu as it is now, and there is no nvcc \
             to make it anew: run plugins/kernels/setup-cuda, then plugins/kernels/build-kernels {name}"
        )
    })?;
    println!("cargo:warning=prebuilt/{name}.fatbin is stale: compiling cuda/{name}.cu");
    let status = Command::new("sh")
        .arg("build-kernels")
        .arg(name)
        .env("NVCC", nvcc)
        .env("KERNELS_OUT", out)
        .status()
        .map_err(|error| format!("sh: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cuda/{name}.cu does not compile"))
    }
}
