use std::io;
use std::path::{Path, PathBuf};

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// `--model` names nothing that is there.
    #[error(
        "no model `{text}`: it is no directory; other forms are a Hugging Face id such as `org/name`, or \
         `synthetic:CONFIG.json`"
    )]
    UnknownModel {
        /// What was given.
        text: String,
    },
    /// A Hugging Face id that was never downloaded.
    #[error(
        "model `{id}` is neither a directory nor in the Hugging Face cache `{}`; download it with `hf download {id}`",
        cache.display()
    )]
    NotCached {
        /// The id.
        id: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The directory is not there.
    #[error("no such directory: `{}`", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has no config.json.
    #[error("`{}` has no config.json: it is no model's directory", directory.display())]
    MissingConfig {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory has no weights that can be read.
    #[error(
        "`{}` has no weights: looked for model.safetensors and model.safetensors.index.json{}",
        directory.display(),
        pickle_hint(pickle.as_deref())
    )]
    MissingWeights {
        /// The directory.
        directory: PathBuf,
        /// A file of weights in PyTorch's own format, if one is there.
        pickle: Option<String>,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("`{}` is not a JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it is wrong; absent when it is JSON of another kind.
        source: Option<serde_json::Error>,
    },
    /// A key of config.json is missing or of the wrong type.
    #[error("`{}`: `{key}` should be {expected}, found {found}", path.display())]
    ConfigKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What it is, as JSON; `nothing` when absent.
        found: String,
    },
    /// The model's weights are quantised already.
    #[error(
        "`{}` has a quantization_config: the weights are quantised already; use the model's original weights",
        path.display()
    )]
    AlreadyQuantised {
        /// The config.json.
        path: PathBuf,
    },
    /// A file of weights is damaged.
    #[error("`{}` is not a whole safetensors file ({bytes} bytes are there); copy or download it again", path.display())]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// The index of a sharded model names a file that is not there.
    #[error("`{}` names the shard `{shard}`, which is not there", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file.
        shard: String,
    },
    /// The index of a sharded model names a tensor that its file does not hold.
    #[error("`{}` places the tensor `{tensor}` in `{shard}`, which does not hold it", index.display())]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file.
        shard: String,
    },
    /// Two shards hold a tensor of the same name.
    #[error("the tensor `{tensor}` is both in `{}` and in `{}`", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The checkpoint does not hold the tensor.
    #[error("`{checkpoint}` has no tensor `{tensor}`")]
    MissingTensor {
        /// The checkpoint.
        checkpoint: String,
        /// The tensor.
        tensor: String,
    },
    /// The tensor's elements are no floats.
    #[error("the tensor `{tensor}` of `{checkpoint}` has type {dtype}; weights are F32, F16 or BF16")]
    ElementType {
        /// The checkpoint.
        checkpoint: String,
        /// The tensor.
        tensor: String,
        /// Its type, as safetensors calls it.
        dtype: String,
    },
    /// No synthetic weights can be made for this config.
    #[error("`{}`: no synthetic weights: {reason}", path.display())]
    Synthetic {
        /// The config.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A pattern of `--skip` or `--only` is no glob.
    #[error("`{pattern}` is not a pattern of module names")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// A pattern of `--skip` or `--only` selects nothing, most likely a typing error.
    #[error("the pattern `{pattern}` matches no module that would be quantised, such as `{example}`")]
    PatternWithoutMatch {
        /// The pattern.
        pattern: String,
        /// The name of a module.
        example: String,
    },
    /// The scheme cannot store a weight.
    #[error("mode `{scheme}` cannot store `{tensor}` ({rows} x {cols}, {dtype})")]
    Scheme {
        /// The mode.
        scheme: String,
        /// The weight.
        tensor: String,
        /// Its output features.
        rows: usize,
        /// Its input features.
        cols: usize,
        /// Its type.
        dtype: qbench_sdk::DType,
        /// Why.
        source: qbench_sdk::Error,
    },
}

impl CheckpointError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// The error as a plugin sees it: its whole chain in one line.
    pub(super) fn into_sdk(self) -> qbench_sdk::Error {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        match self {
            Self::MissingTensor { .. } => qbench_sdk::Error::NotFound(message),
            Self::ElementType { .. } => qbench_sdk::Error::Unsupported(message),
            _ => qbench_sdk::Error::Internal(message),
        }
    }
}

fn pickle_hint(pickle: Option<&str>) -> String {
    pickle.map_or_else(String::new, |file| {
        format!(
            "; found {file}, which holds Python objects: convert it with \
             `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)`"
        )
    })
}
