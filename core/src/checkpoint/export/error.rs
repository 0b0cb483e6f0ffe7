use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;

/// Why a quantised model was not written. The output directory is then as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The model cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight cannot be quantised.
    #[error(transparent)]
    Weight(qbench_sdk::Error),
    /// bitsandbytes cannot hold what the mode stores.
    #[error(
        "mode `{scheme}` has no format in bitsandbytes: for `{tensor}` {reason}; it has formats for NF4 and FP4 in \
         blocks, with or without double quantisation, and for int8 with a scale a row"
    )]
    NoFormat {
        /// The mode.
        scheme: String,
        /// A weight.
        tensor: String,
        /// What bitsandbytes does not know.
        reason: String,
    },
    /// No weight of the model is quantised.
    #[error("`{checkpoint}` has no weight that is quantised")]
    NothingQuantised {
        /// The checkpoint.
        checkpoint: String,
    },
    /// The output is there already.
    #[error("`{}` exists and is not an empty directory; choose another name or force its replacement", out.display())]
    NotEmpty {
        /// The output.
        out: PathBuf,
    },
    /// Writing the output would remove the input.
    #[error("`{}` holds the model that is read (`{}`); choose another directory", out.display(), model.display())]
    Overlap {
        /// The output.
        out: PathBuf,
        /// The input.
        model: PathBuf,
    },
    /// A file or directory cannot be written, or a companion file not be read.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of weights cannot be written.
    #[error("cannot write `{}`", path.display())]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
}

impl ExportError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
