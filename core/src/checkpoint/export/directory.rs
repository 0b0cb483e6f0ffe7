//! A directory that appears when it is complete.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::ExportError;

/// Endings of files that hold weights, in some format, and are not copied with a model.
const WEIGHT_FILES: [&str; 10] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "gguf",
    "ot",
];

/// A temporary directory beside `out` that will take its name.
pub(super) struct NewDirectory {
    temporary: TempDir,
    out: PathBuf,
}

impl NewDirectory {
    /// Checks that `out` may be written: absent or empty, or `force`, and never one that holds the `model`.
    pub(super) fn create(out: &Path, force: bool, model: Option<&Path>) -> Result<Self, ExportError> {
        // `canonicalize` fails for what is not there, and such a directory holds nothing.
        if let (Ok(whole), Some(Ok(model))) = (out.canonicalize(), model.map(Path::canonicalize))
            && model.starts_with(&whole)
        {
            return Err(ExportError::Overlap {
                out: out.to_owned(),
                model,
            });
        }
        let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
        if out.symlink_metadata().is_ok() && !empty && !force {
            return Err(ExportError::NotEmpty { out: out.to_owned() });
        }
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(ExportError::io("make", parent))?;
        let temporary = tempfile::Builder::new()
            .prefix(".qbench-")
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .map_err(ExportError::io("write in", parent))?;
        Ok(Self {
            temporary,
            out: out.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.temporary.path()
    }

    pub(super) fn write_json(&self, name: &str, value: &Value) -> Result<(), ExportError> {
        let path = self.path().join(name);
        fs::write(&path, format!("{value:#}\n")).map_err(ExportError::io("write", &path))
    }

    /// Gives a file that was made for its owner only the permissions of any other new file.
    pub(super) fn set_usual_permissions(&self, name: &str) -> Result<(), ExportError> {
        let path = self.path().join(name);
        let set = || {
            // The directory's own permissions are what the process's mask leaves of 777.
            let mode = fs::metadata(self.path())?.permissions().mode() & 0o666;
            fs::set_permissions(&path, Permissions::from_mode(mode))
        };
        set().map_err(ExportError::io("set the permissions of", &path))
    }

    /// Copies what lies beside a model's weights: tokenizer, generation settings, model card, code. Hidden files,
    /// directories, and other forms of the weights are left out.
    pub(super) fn copy_companions(&self, model: &Path) -> Result<(), ExportError> {
        for entry in fs::read_dir(model).map_err(ExportError::io("read", model))? {
            let from = entry.map_err(ExportError::io("read", model))?.path();
            let name = from.file_name().unwrap_or_default();
            let text = name.to_string_lossy();
            let weights = from
                .extension()
                .and_then(OsStr::to_str)
                .is_some_and(|ending| WEIGHT_FILES.contains(&ending));
            if text.starts_with('.') || weights || text.ends_with(".index.json") || !from.is_file() {
                continue;
            }
            let to = self.path().join(name);
            if !to.exists() {
                fs::copy(&from, &to).map_err(ExportError::io("copy", &from))?;
            }
        }
        Ok(())
    }

    /// Gives the directory its name, in place of what had it, and returns the names of its files.
    pub(super) fn publish(self) -> Result<Vec<String>, ExportError> {
        let mut files: Vec<String> = fs::read_dir(self.path())
            .map_err(ExportError::io("read", self.path()))?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        files.sort();
        let failed = || ExportError::io("write", &self.out);
        let aside = self.temporary.path().with_extension("replaced");
        let replaced = self.out.symlink_metadata().is_ok();
        if replaced {
            fs::rename(&self.out, &aside).map_err(failed())?;
        }
        if let Err(error) = fs::rename(self.temporary.path(), &self.out) {
            if replaced {
                // The first rename worked, so this one back does, or nothing here can.
                let _ = fs::rename(&aside, &self.out);
            }
            return Err(failed()(error));
        }
        let _ = self.temporary.keep();
        if replaced {
            let removed = if aside.is_dir() && !aside.is_symlink() {
                fs::remove_dir_all(&aside)
            } else {
                fs::remove_file(&aside)
            };
            removed.map_err(ExportError::io("remove", &aside))?;
        }
        Ok(files)
    }
}
