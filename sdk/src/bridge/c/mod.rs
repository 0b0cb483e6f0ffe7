//! Plugins that are written in C, adapted to the same traits: `include/qbench_plugin.h` is the interface.

mod scheme;
#[cfg(test)]
mod tests;
mod text;
mod types;

use std::ffi::{CStr, c_char};

pub use types::{ABI, Entry};

use self::{
    scheme::CScheme,
    text::{Sink, read},
    types::{Host, PluginTable, Scheme, copy_grown},
};
use super::{root::LoadError, services};
use crate::{Error, Options, PluginManifest, QuantScheme, Result, SchemeInfo};

/// The symbol of the entry, with its final zero byte.
pub const ENTRY_SYMBOL: &str = "qbench_plugin_v1\0";

/// What a plugin that is written in C offers.
pub(super) struct CPlugin {
    manifest: PluginManifest,
    /// Sorted by id.
    schemes: Vec<(SchemeInfo, Scheme)>,
}

unsafe extern "C" fn log(level: u32, target: *const c_char, message: *const c_char) {
    if target.is_null() || message.is_null() {
        return;
    }
    // SAFETY: the plugin passes texts with a final zero byte, as the interface says.
    let (target, message) = unsafe { (CStr::from_ptr(target), CStr::from_ptr(message)) };
    services::show(
        u8::try_from(level).unwrap_or(u8::MAX),
        &target.to_string_lossy(),
        &message.to_string_lossy(),
    );
}

impl CPlugin {
    /// Calls the entry and reads what it returns.
    ///
    /// # Safety
    /// `entry` is the function that the header declares as `qbench_plugin_v1`, of a library that stays loaded.
    pub(super) unsafe fn open(entry: Entry) -> Result<Self, LoadError> {
        static HOST: Host = Host {
            struct_size: size_of::<Host>(),
            log: Some(log),
        };
        let mut error = Sink::default();
        let text = error.text();
        // SAFETY: the host's table is a static, and the error text outlives the call.
        let table = unsafe { entry(&raw const HOST, &raw const text) };
        if table.is_null() {
            let message = error.finish("the plugin's reason")?;
            return Err(LoadError::Setup(Error::Internal(if message.is_empty() {
                "it returned a null pointer without saying why".to_owned()
            } else {
                message
            })));
        }
        // SAFETY: a table that an entry returns starts with its size.
        let table = unsafe { copy_grown(table) }.map_err(LoadError::Table)?;
        if table.abi != ABI {
            return Err(LoadError::Version {
                expected: format!("C {ABI}"),
                found: format!("C {}", table.abi),
            });
        }
        // SAFETY: texts and schemes of the table live as long as the library, as the interface says.
        unsafe { Self::read(&table) }
    }

    unsafe fn read(table: &PluginTable) -> Result<Self, LoadError> {
        // SAFETY: as the caller says.
        let text = |pointer, what| unsafe { read(pointer, what) };
        let manifest = PluginManifest {
            name: text(table.name, "qbench_plugin.name")?,
            version: text(table.version, "qbench_plugin.version")?,
            license: text(table.license, "qbench_plugin.license")?,
            sdk: String::new(),
        };
        if table.scheme_count > 0 && table.schemes.is_null() {
            return Err(LoadError::Table(
                "qbench_plugin.schemes is a null pointer".to_owned(),
            ));
        }
        let mut schemes = Vec::new();
        for index in 0..table.scheme_count {
            // SAFETY: the plugin says that so many pointers are there, each to a table that starts with its size.
            let scheme = unsafe { copy_grown(table.schemes.add(index).read()) }.map_err(LoadError::Table)?;
            let json = text(scheme.info_json, "qbench_scheme.info_json")?;
            let info: SchemeInfo = serde_json::from_str(&json)
                .map_err(|error| LoadError::Table(format!("qbench_scheme.info_json `{json}`: {error}")))?;
            schemes.push((info, scheme));
        }
        schemes.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        if let Some(pair) = schemes.windows(2).find(|pair| pair[0].0.id == pair[1].0.id) {
            return Err(LoadError::Table(format!(
                "two schemes of this plugin share the id `{}`",
                pair[0].0.id
            )));
        }
        Ok(Self { manifest, schemes })
    }

    pub(super) fn manifest(&self) -> &PluginManifest {
        &self.manifest
    }

    pub(super) fn schemes(&self) -> impl Iterator<Item = &SchemeInfo> {
        self.schemes.iter().map(|(info, _)| info)
    }

    pub(super) fn open_scheme(&self, id: &str, options: &Options) -> Result<Box<dyn QuantScheme>> {
        let (info, table) = self
            .schemes
            .iter()
            .find(|(info, _)| info.id == id)
            .ok_or_else(|| Error::NotFound(format!("scheme `{id}` in this plugin")))?;
        // SAFETY: the table is one that the plugin's entry returned.
        Ok(Box::new(unsafe { CScheme::open(*table, info.clone(), options) }?))
    }
}
