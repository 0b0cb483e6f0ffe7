//! What the plugins that were found offer.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use qbench_sdk::{
    Options, SchemeInfo,
    backend::{BackendInfo, DeviceInfo},
};
use serde::{Deserialize, Serialize};

use super::{
    scan::{Offer, scan},
    search::{Candidate, SearchPath, check_permissions},
    sidecar,
};
use crate::{failure::usage, hash::sha256_of_file};

/// A file that is a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginFile {
    pub path: PathBuf,
    pub sha256: String,
    /// Whether the user named the file itself; its ids then win over those of files that were found.
    pub named: bool,
    /// The place that it was found in.
    pub place: &'static str,
    /// Whether the manifest beside it said what it offers; the plugin was then not run.
    pub from_sidecar: bool,
    /// Why the manifest beside it was not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar_problem: Option<String>,
    #[serde(flatten)]
    pub offer: Offer,
}

impl PluginFile {
    /// Name and version of its crate.
    fn crate_version(&self) -> String {
        format!("{} {}", self.offer.manifest.name, self.offer.manifest.version)
    }
}

/// A file that is none, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    pub path: PathBuf,
    pub reason: String,
}

/// A file that was not looked at, because one of the same name lies in a place that comes first.
#[derive(Clone, Debug, Serialize)]
pub struct Shadowed {
    pub path: PathBuf,
    pub by: PathBuf,
}

/// All plugins that were found.
#[derive(Debug, Default, Serialize)]
pub struct Registry {
    pub files: Vec<PluginFile>,
    pub refused: Vec<Refused>,
    pub shadowed: Vec<Shadowed>,
}

/// A mode that the user chose: a scheme of a file, with options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemeChoice {
    /// Id and options as tables show them.
    pub mode: String,
    pub id: String,
    pub options: Options,
    /// Name and version of the plugin's crate.
    #[serde(default)]
    pub plugin: String,
    pub path: PathBuf,
    pub sha256: String,
}

/// A backend that the user chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendChoice {
    pub info: BackendInfo,
    pub options: Options,
    /// Name and version of the plugin's crate.
    #[serde(default)]
    pub plugin: String,
    pub path: PathBuf,
    pub sha256: String,
}

/// Splits `name:key=value,key=value` into the name and its options.
///
/// # Errors
/// Options that do not parse.
pub fn split_mode(text: &str) -> Result<(&str, Options)> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    let options = Options::parse(options)
        .with_context(|| format!("mode `{text}`"))
        .map_err(usage)?;
    Ok((name, options))
}

impl Registry {
    /// Looks at every candidate of `search`; with `devices`, backends look for devices too.
    ///
    /// Of several files with one name, the first place's counts, and of files with the same content. Different files
    /// that offer one id are found out when that id is asked for.
    ///
    /// # Errors
    /// A file or directory that the user named and that cannot be used. Other files that cannot be used are listed as
    /// refused.
    pub fn discover(search: &SearchPath, devices: bool) -> Result<Self> {
        Self::look(search, if devices { Ask::Devices } else { Ask::Plugin })
    }

    /// Like [`discover`](Self::discover) with devices, but a plugin with a manifest beside it is not run.
    ///
    /// # Errors
    /// Those of [`discover`](Self::discover).
    pub fn list(search: &SearchPath) -> Result<Self> {
        Self::look(search, Ask::Sidecar)
    }

    fn look(search: &SearchPath, ask: Ask) -> Result<Self> {
        let mut registry = Self::default();
        let mut seen: Vec<PathBuf> = Vec::new();
        for candidate in search.candidates().map_err(usage)? {
            let same_name = |path: &&PathBuf| path.file_name() == candidate.path.file_name();
            if let Some(first) = seen.iter().find(same_name).filter(|_| !candidate.named) {
                if sha256_of_file(first).ok() != sha256_of_file(&candidate.path).ok() {
                    registry.shadowed.push(Shadowed {
                        path: candidate.path,
                        by: first.clone(),
                    });
                }
                continue;
            }
            match examine_candidate(search, &candidate, ask) {
                // The same file twice counts once; the first place wins.
                Ok(file) if registry.files.iter().any(|known| known.sha256 == file.sha256) => {}
                Ok(file) => {
                    if !candidate.named {
                        seen.push(candidate.path);
                    }
                    registry.files.push(file);
                }
                Err(error) if candidate.named => {
                    return Err(error.context(format!("plugin {}", candidate.path.display())));
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    // The same file in two places, as cargo leaves it, is refused once.
                    let known = |refused: &Refused| {
                        refused.reason == reason && refused.path.file_name() == candidate.path.file_name()
                    };
                    if !registry.refused.iter().any(known) {
                        registry.refused.push(Refused {
                            path: candidate.path,
                            reason,
                        });
                    }
                }
            }
        }
        Ok(registry)
    }

    /// The scheme that a mode's name or alias stands for, with its options.
    ///
    /// # Errors
    /// An unknown name (with those that are known), or two different files that offer it.
    pub fn scheme(&self, text: &str) -> Result<SchemeChoice> {
        let (name, options) = split_mode(text)?;
        let matches = |file: &PluginFile| {
            let names =
                |info: &&SchemeInfo| info.id == name || info.aliases.iter().any(|alias| alias == name);
            file.offer.schemes.iter().find(names).cloned()
        };
        let (file, info) = self.find(matches, "mode", name, &self.known_modes())?;
        Ok(choice(file, &info, options))
    }

    /// The file that offers a mode or backend of that name.
    ///
    /// # Errors
    /// An unknown name, or two different files that offer it.
    pub fn file_of(&self, name: &str) -> Result<&PluginFile> {
        let offers = |file: &PluginFile| {
            let backend = file.offer.backends.iter().any(|info| info.id == name);
            let mode = |info: &SchemeInfo| info.id == name || info.aliases.iter().any(|alias| alias == name);
            (backend || file.offer.schemes.iter().any(mode)).then_some(())
        };
        let backends = self.files.iter().flat_map(|file| &file.offer.backends);
        let mut known = self.known_modes();
        known.extend(backends.map(|info| info.id.clone()));
        Ok(self.find(offers, "mode or backend", name, &known)?.0)
    }

    /// All schemes of the file at `path`, which must have been named in the search.
    ///
    /// # Errors
    /// A file without schemes.
    pub fn schemes_of(&self, path: &Path) -> Result<Vec<SchemeChoice>> {
        let real = path
            .canonicalize()
            .with_context(|| format!("plugin {}", path.display()))
            .map_err(usage)?;
        let hash = sha256_of_file(&real)?;
        let Some(file) = self.files.iter().find(|file| file.sha256 == hash) else {
            bail!("plugin {}: it changed while it was looked at", path.display());
        };
        if file.offer.schemes.is_empty() {
            return Err(usage(anyhow::anyhow!(
                "plugin {}: it offers no quantisation scheme",
                path.display()
            )));
        }
        Ok(file
            .offer
            .schemes
            .iter()
            .map(|info| choice(file, info, Options::none()))
            .collect())
    }

    /// The backend of that id.
    ///
    /// # Errors
    /// An unknown id (with those that are known), or two different files that offer it.
    pub fn backend(&self, text: &str) -> Result<BackendChoice> {
        let (name, options) = split_mode(text)?;
        let matches = |file: &PluginFile| file.offer.backends.iter().find(|info| info.id == name).cloned();
        let known = self
            .files
            .iter()
            .flat_map(|file| &file.offer.backends)
            .map(|info| info.id.clone())
            .collect();
        let (file, info) = self.find(matches, "backend", name, &known)?;
        Ok(BackendChoice {
            info,
            options,
            plugin: file.crate_version(),
            path: file.path.clone(),
            sha256: file.sha256.clone(),
        })
    }

    /// The devices that a backend reported, if it was asked.
    pub fn devices(&self, backend: &BackendChoice) -> Option<&Result<Vec<DeviceInfo>, String>> {
        let file = self.files.iter().find(|file| file.sha256 == backend.sha256)?;
        file.offer
            .devices
            .iter()
            .find(|report| report.backend == backend.info.id)
            .map(|report| &report.devices)
    }

    fn known_modes(&self) -> BTreeSet<String> {
        let schemes = self.files.iter().flat_map(|file| &file.offer.schemes);
        schemes
            .flat_map(|info| std::iter::once(&info.id).chain(&info.aliases))
            .cloned()
            .collect()
    }

    /// The one file that offers what is looked for; files that the user named come first.
    fn find<T>(
        &self,
        matches: impl Fn(&PluginFile) -> Option<T>,
        what: &str,
        name: &str,
        known: &BTreeSet<String>,
    ) -> Result<(&PluginFile, T)> {
        for named in [true, false] {
            let mut found = self
                .files
                .iter()
                .filter(|file| file.named == named)
                .filter_map(|file| matches(file).map(|info| (file, info)));
            match (found.next(), found.next()) {
                (None, _) => {}
                (Some(only), None) => return Ok(only),
                (Some((first, _)), Some((second, _))) => {
                    return Err(usage(anyhow::anyhow!(
                        "{what} `{name}` is offered by two different files: {} and {}; remove one, or name the one \
                         you mean with --plugin",
                        first.path.display(),
                        second.path.display()
                    )));
                }
            }
        }
        let known = if known.is_empty() {
            "no plugin was found (`qbench plugin list` says where they are looked for)".to_owned()
        } else {
            format!(
                "there are: {}",
                known.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            )
        };
        let refused = match self.refused.len() {
            0 => String::new(),
            count => format!("; {count} files were refused (`qbench plugin list` says why)"),
        };
        Err(usage(anyhow::anyhow!(
            "unknown {what} `{name}`; {known}{refused}"
        )))
    }
}

/// Who is asked what a plugin offers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// The plugin.
    Plugin,
    /// The plugin, and its backends for their devices.
    Devices,
    /// The manifest beside the plugin; without one, the plugin and its backends for their devices.
    Sidecar,
}

/// Looks at one file that the user named, in a child process; with `ask_sidecar`, at the manifest beside it instead, if
/// there is one.
///
/// # Errors
/// Why it is refused.
pub fn examine(path: &Path, search: &SearchPath, ask_sidecar: bool) -> Result<PluginFile> {
    let ask = if ask_sidecar { Ask::Sidecar } else { Ask::Devices };
    examine_candidate(search, &Candidate::named(path), ask)
        .with_context(|| format!("plugin {}", path.display()))
}

fn examine_candidate(search: &SearchPath, candidate: &Candidate, ask: Ask) -> Result<PluginFile> {
    let path = candidate
        .path
        .canonicalize()
        .context("the file cannot be opened")
        .map_err(usage)?;
    if !path.is_file() {
        // A pipe would be waited for.
        return Err(usage(anyhow::anyhow!(
            "expected a shared library, found {}",
            if path.is_dir() {
                "a directory"
            } else {
                "something that is no regular file"
            }
        )));
    }
    check_permissions(&candidate.path).map_err(usage)?;
    // Before any of its code runs.
    let sha256 = sha256_of_file(&path)?;
    search.check_pin(&sha256).map_err(usage)?;
    let (sidecar, sidecar_problem) = match ask {
        Ask::Sidecar => match sidecar::read(&path, &sha256) {
            Ok(offer) => (offer, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        },
        Ask::Plugin | Ask::Devices => (None, None),
    };
    let from_sidecar = sidecar.is_some();
    let offer = match sidecar {
        Some(offer) => offer,
        None => scan(&path, ask != Ask::Plugin)?,
    };
    if sha256_of_file(&path)? != sha256 {
        bail!("it changed while it was looked at");
    }
    Ok(PluginFile {
        sha256,
        path,
        named: candidate.named,
        place: candidate.place,
        from_sidecar,
        sidecar_problem,
        offer,
    })
}

fn choice(file: &PluginFile, info: &SchemeInfo, options: Options) -> SchemeChoice {
    let mode = if options.is_empty() {
        info.id.clone()
    } else {
        format!("{}:{options}", info.id)
    };
    SchemeChoice {
        mode,
        id: info.id.clone(),
        options,
        plugin: file.crate_version(),
        path: file.path.clone(),
        sha256: file.sha256.clone(),
    }
}
