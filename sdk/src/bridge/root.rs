//! The root module of a plugin, from both sides.

use qbench_abi::{
    AbiError, AbiResult, BackendBox, Extension, HostServices, PluginRoot, PluginRoot_Ref, SchemeBox,
    abi_stable::{
        library::{AbiHeaderRef, LibraryError, RootModule},
        prefix_type::PrefixTypeTrait,
        std_types::{RNone, ROption, RResult, RStr, RString, RVec},
    },
};

use super::{
    backend,
    c::{self, CPlugin},
    guard, scheme,
    services::host_services,
};
use crate::{
    Backend, BackendEntry, Error, Options, PluginManifest, QuantScheme, Result, SchemeEntry, SchemeInfo,
    backend::BackendInfo, error::from_abi, log,
};

// ---- the plugin's side: called through the table that `export_plugin!` exports ----

/// Builds the root module from this library's registry.
pub fn root_module(manifest: extern "C" fn() -> AbiResult<RString>) -> PluginRoot_Ref {
    PluginRoot {
        manifest,
        init,
        schemes,
        open_scheme,
        backends,
        open_backend,
        extension,
    }
    .leak_into_prefix()
}

/// The manifest, from the environment of the crate that is being built.
pub fn manifest_json(name: &str, version: &str, license: &str) -> RResult<RString, AbiError> {
    guard(|| {
        let manifest = PluginManifest {
            name: name.to_owned(),
            version: version.to_owned(),
            license: license.to_owned(),
            sdk: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(serde_json::to_string(&manifest)?.into())
    })
}

extern "C" fn init(services: HostServices) -> AbiResult<()> {
    guard(|| {
        log::connect(services);
        Ok(())
    })
}

extern "C" fn schemes() -> AbiResult<RVec<RString>> {
    guard(|| {
        let infos = inventory::iter::<SchemeEntry>.into_iter().map(|entry| {
            let info = (entry.open)(&Options::none())?.info();
            Ok((info.id.clone(), serde_json::to_string(&info)?))
        });
        sorted(infos)
    })
}

extern "C" fn backends() -> AbiResult<RVec<RString>> {
    guard(|| {
        let infos = inventory::iter::<BackendEntry>.into_iter().map(|entry| {
            let info = (entry.open)(&Options::none())?.info();
            Ok((info.id.clone(), serde_json::to_string(&info)?))
        });
        sorted(infos)
    })
}

/// Sorted by id: the order of a registry differs from build to build.
fn sorted(infos: impl Iterator<Item = Result<(String, String)>>) -> Result<RVec<RString>> {
    let mut infos = infos.collect::<Result<Vec<_>>>()?;
    infos.sort();
    if let Some(pair) = infos.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::InvalidArgument(format!(
            "two entries of this plugin share the id `{}`",
            pair[0].0
        )));
    }
    Ok(infos.into_iter().map(|(_, json)| RString::from(json)).collect())
}

extern "C" fn open_scheme(id: RStr<'_>, options_json: RStr<'_>) -> AbiResult<SchemeBox> {
    guard(|| {
        let options: Options = serde_json::from_str(options_json.as_str())?;
        for entry in inventory::iter::<SchemeEntry> {
            if (entry.open)(&Options::none())?.info().id == id.as_str() {
                return Ok(scheme::export((entry.open)(&options)?));
            }
        }
        Err(Error::NotFound(format!("scheme `{id}` in this plugin")))
    })
}

extern "C" fn open_backend(id: RStr<'_>, options_json: RStr<'_>) -> AbiResult<BackendBox> {
    guard(|| {
        let options: Options = serde_json::from_str(options_json.as_str())?;
        for entry in inventory::iter::<BackendEntry> {
            if (entry.open)(&Options::none())?.info().id == id.as_str() {
                return Ok(backend::export((entry.open)(&options)?));
            }
        }
        Err(Error::NotFound(format!("backend `{id}` in this plugin")))
    })
}

extern "C" fn extension(_id: RStr<'_>) -> ROption<Extension<'static>> {
    RNone
}

// ---- the host's side ----

/// Why a library cannot be used as a plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Its header was made by an abi_stable that this one cannot read.
    #[error("the plugin header is of another binary format: {0}")]
    Header(String),
    /// It was built for another major version of the ABI.
    #[error("plugin ABI {found}, this qbench loads {expected}: build it against a matching qbench-sdk")]
    Version {
        /// Version that this program loads.
        expected: String,
        /// Version that the plugin was built for.
        found: String,
    },
    /// Its types differ although the version is the same.
    #[error("the plugin's types do not match plugin ABI {expected}: {details}")]
    Layout {
        /// Version that this program loads.
        expected: String,
        /// The first differences.
        details: String,
    },
    /// A table of a plugin that is written in C is not as `qbench_plugin.h` says.
    #[error("the plugin's table: {0}")]
    Table(String),
    /// It failed or panicked while it was set up.
    #[error("the plugin's set-up: {0}")]
    Setup(#[from] Error),
}

/// A loaded plugin. Its library is never unloaded.
pub struct Plugin(Origin);

enum Origin {
    Rust { root: PluginRoot_Ref, version: String },
    C(CPlugin),
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}

/// abi_stable describes a mismatch in over a thousand lines; the paragraphs that start with `Error:` say what differs.
fn first_differences(report: &str) -> String {
    let errors: Vec<&str> = report
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Error:"))
        .map(str::trim)
        .take(3)
        .collect();
    if errors.is_empty() {
        report.lines().take(3).collect::<Vec<_>>().join(" ")
    } else {
        errors.join("; ")
    }
}

impl Plugin {
    /// Opens the plugin behind the header that a library exports as [`HEADER_SYMBOL`](qbench_abi::HEADER_SYMBOL).
    ///
    /// # Errors
    /// [`LoadError`]; the version is compared before anything else.
    pub fn open(header: AbiHeaderRef) -> Result<Self, LoadError> {
        let expected = PluginRoot_Ref::VERSION_STRINGS.version;
        let header = header
            .upgrade()
            .map_err(|error| LoadError::Header(first_differences(&error.to_string())))?;
        let found = header.version_strings().version;
        if major(found.as_str()) != major(expected.as_str()) {
            return Err(LoadError::Version {
                expected: format!("{}.x", major(expected.as_str())),
                found: found.to_string(),
            });
        }
        let root = header
            .init_root_module::<PluginRoot_Ref>()
            .map_err(|error| match error {
                LibraryError::AbiInstability(error) => LoadError::Layout {
                    expected: expected.to_string(),
                    details: first_differences(&error.to_string()),
                },
                other => LoadError::Header(first_differences(&other.to_string())),
            })?;
        from_abi((root.init())(host_services())).map_err(LoadError::Setup)?;
        Ok(Self(Origin::Rust {
            root,
            version: found.to_string(),
        }))
    }

    /// Opens the plugin behind the function that a library in C exports as
    /// [`C_ENTRY_SYMBOL`](crate::host::C_ENTRY_SYMBOL).
    ///
    /// # Errors
    /// [`LoadError`].
    ///
    /// # Safety
    /// The function is the one that `qbench_plugin.h` declares, of a library that stays loaded.
    pub unsafe fn open_c(entry: c::Entry) -> Result<Self, LoadError> {
        // SAFETY: as the caller says.
        unsafe { CPlugin::open(entry) }.map(|plugin| Self(Origin::C(plugin)))
    }

    /// The interface that the plugin was built for: `rust 1.0.0`, `c 1`.
    pub fn abi(&self) -> String {
        match &self.0 {
            Origin::Rust { version, .. } => format!("rust {version}"),
            Origin::C(_) => format!("c {}", c::ABI),
        }
    }

    /// What the plugin says of itself.
    ///
    /// # Errors
    /// The plugin's error.
    pub fn manifest(&self) -> Result<PluginManifest> {
        match &self.0 {
            Origin::Rust { root, .. } => Ok(serde_json::from_str(&from_abi((root.manifest())())?)?),
            Origin::C(plugin) => Ok(plugin.manifest().clone()),
        }
    }

    /// Its schemes, sorted by id.
    ///
    /// # Errors
    /// The plugin's error.
    pub fn schemes(&self) -> Result<Vec<SchemeInfo>> {
        match &self.0 {
            Origin::Rust { root, .. } => from_abi((root.schemes())())?
                .iter()
                .map(|json| Ok(serde_json::from_str(json)?))
                .collect(),
            Origin::C(plugin) => Ok(plugin.schemes().cloned().collect()),
        }
    }

    /// Its backends, sorted by id.
    ///
    /// # Errors
    /// The plugin's error.
    pub fn backends(&self) -> Result<Vec<BackendInfo>> {
        match &self.0 {
            Origin::Rust { root, .. } => from_abi((root.backends())())?
                .iter()
                .map(|json| Ok(serde_json::from_str(json)?))
                .collect(),
            Origin::C(_) => Ok(Vec::new()),
        }
    }

    /// Opens a scheme.
    ///
    /// # Errors
    /// An unknown id or option.
    pub fn open_scheme(&self, id: &str, options: &Options) -> Result<Box<dyn QuantScheme>> {
        let root = match &self.0 {
            Origin::Rust { root, .. } => root,
            Origin::C(plugin) => return plugin.open_scheme(id, options),
        };
        let options = serde_json::to_string(options)?;
        let opened = from_abi((root.open_scheme())(RStr::from(id), RStr::from(options.as_str())))?;
        Ok(Box::new(scheme::import(opened)?))
    }

    /// Opens a backend.
    ///
    /// # Errors
    /// An unknown id or option.
    pub fn open_backend(&self, id: &str, options: &Options) -> Result<Box<dyn Backend>> {
        let Origin::Rust { root, .. } = &self.0 else {
            return Err(Error::NotFound(format!("backend `{id}` in this plugin")));
        };
        let options = serde_json::to_string(options)?;
        let opened = from_abi((root.open_backend())(
            RStr::from(id),
            RStr::from(options.as_str()),
        ))?;
        Ok(Box::new(backend::import(opened)?))
    }
}
