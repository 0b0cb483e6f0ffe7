//! What `--model` names.

use std::path::{Path, PathBuf};

use super::{Checkpoint, CheckpointError};
use crate::bounded;

const SYNTHETIC: &str = "synthetic:";

/// Where a model is, resolved from what the user typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A directory in the layout of Hugging Face.
    Directory(PathBuf),
    /// A model in the local Hugging Face cache.
    Hub {
        /// `org/name`.
        id: String,
        /// Its revision: the commit that `main` stood at when it was downloaded.
        commit: String,
        /// The directory of that revision.
        snapshot: PathBuf,
    },
    /// Random weights for the config file of this path.
    Synthetic(PathBuf),
}

impl ModelSource {
    /// Resolves a directory, a Hugging Face id that is in the local cache, or `synthetic:CONFIG.json`. Nothing is
    /// downloaded.
    ///
    /// # Errors
    /// [`CheckpointError::NotCached`] says how to download an id that is not there; [`CheckpointError::UnknownModel`]
    /// for anything else that is not there.
    pub fn resolve(text: &str) -> Result<Self, CheckpointError> {
        Self::resolve_in(text, &hub_cache(|name| std::env::var_os(name).map(PathBuf::from)))
    }

    fn resolve_in(text: &str, cache: &Path) -> Result<Self, CheckpointError> {
        if let Some(config) = text.strip_prefix(SYNTHETIC) {
            return Ok(Self::Synthetic(PathBuf::from(config)));
        }
        if Path::new(text).is_dir() {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        if !is_hub_id(text) {
            return Err(CheckpointError::UnknownModel {
                text: text.to_owned(),
            });
        }
        let repository = cache.join(format!("models--{}", text.replace('/', "--")));
        let cached = bounded::read_text(&repository.join("refs/main"), bounded::DESCRIPTION)
            .ok()
            .map(|commit| {
                let commit = commit.trim().to_owned();
                let snapshot = repository.join("snapshots").join(&commit);
                (commit, snapshot)
            });
        match cached {
            Some((commit, snapshot)) if snapshot.is_dir() => Ok(Self::Hub {
                id: text.to_owned(),
                commit,
                snapshot,
            }),
            _ => Err(CheckpointError::NotCached {
                id: text.to_owned(),
                cache: cache.to_owned(),
            }),
        }
    }

    /// The model's name in tables: the directory's name, the hub id, or `synthetic:` with the name of the config (of
    /// its directory, when the file is called `config.json`).
    pub fn label(&self) -> String {
        let name = |path: &Path| {
            // A path such as `.` has no name of its own.
            let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            whole.file_name().map(|name| name.to_string_lossy().into_owned())
        };
        match self {
            Self::Directory(path) => name(path).unwrap_or_else(|| path.display().to_string()),
            Self::Hub { id, .. } => id.clone(),
            Self::Synthetic(config) => {
                let stem = config.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                let label = match (&stem, config.parent()) {
                    (Some(stem), Some(parent)) if stem == "config" => {
                        let parent = if parent.as_os_str().is_empty() {
                            Path::new(".")
                        } else {
                            parent
                        };
                        name(parent)
                    }
                    _ => None,
                };
                format!("{SYNTHETIC}{}", label.or(stem).unwrap_or_default())
            }
        }
    }

    /// The hub's revision; empty for other sources.
    pub fn commit(&self) -> &str {
        match self {
            Self::Hub { commit, .. } => commit,
            Self::Directory(_) | Self::Synthetic(_) => "",
        }
    }

    /// Opens the model. `seed` decides synthetic weights and nothing else.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`Checkpoint::synthetic`].
    pub fn open(&self, seed: u64) -> Result<Checkpoint, CheckpointError> {
        match self {
            Self::Directory(path) | Self::Hub { snapshot: path, .. } => Checkpoint::open(path),
            Self::Synthetic(config) => Checkpoint::synthetic(config, seed),
        }
    }
}

/// The cache directory as `huggingface_hub` finds it, from the environment.
fn hub_cache(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let set = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    if let Some(cache) = set("HF_HUB_CACHE") {
        return cache;
    }
    let home = set("HF_HOME").unwrap_or_else(|| {
        set("XDG_CACHE_HOME")
            .unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache"))
            .join("huggingface")
    });
    home.join("hub")
}

/// Whether `text` has the form `org/name` of the hub.
fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split_once('/')
        .is_some_and(|(org, name)| part(org) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_cached_hub_id_is_its_snapshot() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--some.model-1");
        write(&repository.join("refs/main"), "0123abcd\n");
        write(&repository.join("snapshots/0123abcd/config.json"), "{}");
        let source = ModelSource::resolve_in("org/some.model-1", cache.path()).unwrap();
        assert_eq!(source.label(), "org/some.model-1");
        assert_eq!(source.commit(), "0123abcd");
        let ModelSource::Hub { snapshot, .. } = source else {
            panic!("{source:?}")
        };
        assert_eq!(snapshot, repository.join("snapshots/0123abcd"));
    }

    #[test]
    fn an_absent_hub_id_says_how_to_get_it() {
        let cache = tempfile::tempdir().unwrap();
        // A download that was begun, but whose snapshot is not there.
        write(&cache.path().join("models--org--half/refs/main"), "0123abcd");
        for id in ["org/model", "org/half"] {
            let error = ModelSource::resolve_in(id, cache.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("hf download {id}")), "{error}");
            assert!(error.contains(&cache.path().display().to_string()), "{error}");
        }
    }

    #[test]
    fn what_is_no_id_is_unknown() {
        for text in ["model", "./org/model", "../x/y", "/a/b", "a/b/c", "org/", ""] {
            let error = ModelSource::resolve_in(text, Path::new("/nowhere")).unwrap_err();
            assert!(
                matches!(error, CheckpointError::UnknownModel { .. }),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_directory_is_called_by_its_name() {
        let parent = tempfile::tempdir().unwrap();
        let model = parent.path().join("my-model");
        std::fs::create_dir(&model).unwrap();
        for text in [format!("{}/", model.display()), format!("{}/.", model.display())] {
            let source = ModelSource::resolve_in(&text, Path::new("/nowhere")).unwrap();
            assert_eq!(source.label(), "my-model");
            assert_eq!(source.commit(), "");
        }
    }

    #[test]
    fn synthetic_models_are_called_by_their_config() {
        for (text, label) in [
            ("synthetic:configs/go-4b.json", "synthetic:go-4b"),
            ("synthetic:models/go-4b/config.json", "synthetic:go-4b"),
        ] {
            let source = ModelSource::resolve_in(text, Path::new("/nowhere")).unwrap();
            assert_eq!(source.label(), label);
        }
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |set: &[(&str, &str)]| {
            let path = hub_cache(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, v)| PathBuf::from(v))
            });
            path.display().to_string()
        };
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(
            cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            "/x/huggingface/hub"
        );
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), "/f/hub");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]), "/c");
        assert_eq!(cache(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/f")]), "/f/hub");
    }
}
