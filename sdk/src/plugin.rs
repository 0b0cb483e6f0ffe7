//! Registration: how schemes and backends of a crate become a plugin.

use serde::{Deserialize, Serialize};

use crate::{Backend, Options, QuantScheme, Result};

/// A registered scheme. Made by [`register_scheme!`](crate::register_scheme).
pub struct SchemeEntry {
    /// Opens the scheme with the user's options.
    pub open: fn(&Options) -> Result<Box<dyn QuantScheme>>,
}

/// A registered backend. Made by [`register_backend!`](crate::register_backend).
pub struct BackendEntry {
    /// Opens the backend with the user's options.
    pub open: fn(&Options) -> Result<Box<dyn Backend>>,
}

// One registry a `.so`: each plugin sees its own entries only.
inventory::collect!(SchemeEntry);
inventory::collect!(BackendEntry);

/// What a plugin says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginManifest {
    /// Name of its crate.
    pub name: String,
    /// Version of its crate.
    pub version: String,
    /// Licence of its crate.
    #[serde(default)]
    pub license: String,
    /// Version of the sdk that it was built with.
    pub sdk: String,
}

/// Registers a scheme: an expression that opens it, `fn(&Options) -> Result<impl QuantScheme>`.
///
/// Opening with no options must be cheap and must succeed: that is how a scheme is listed.
#[macro_export]
macro_rules! register_scheme {
    ($open:expr) => {
        $crate::__private::inventory::submit! {
            $crate::SchemeEntry {
                open: |options| {
                    let scheme: ::std::boxed::Box<dyn $crate::QuantScheme> = ::std::boxed::Box::new(($open)(options)?);
                    ::std::result::Result::Ok(scheme)
                },
            }
        }
    };
}

/// Registers a backend: an expression that opens it, `fn(&Options) -> Result<impl Backend>`.
///
/// Opening with no options must be cheap, touch no device, and succeed: that is how a backend is listed.
#[macro_export]
macro_rules! register_backend {
    ($open:expr) => {
        $crate::__private::inventory::submit! {
            $crate::BackendEntry {
                open: |options| {
                    let backend: ::std::boxed::Box<dyn $crate::Backend> = ::std::boxed::Box::new(($open)(options)?);
                    ::std::result::Result::Ok(backend)
                },
            }
        }
    };
}

/// Makes the crate a plugin, once, at its root: registers what is listed and exports the entry that the host looks for.
///
/// Schemes and backends that were registered elsewhere in the crate with
/// [`register_scheme!`](crate::register_scheme) or [`register_backend!`](crate::register_backend) are exported too.
#[macro_export]
macro_rules! export_plugin {
    ($(schemes: [$($scheme:expr),* $(,)?] $(,)?)? $(backends: [$($backend:expr),* $(,)?] $(,)?)?) => {
        $($($crate::register_scheme!($scheme);)*)?
        $($($crate::register_backend!($backend);)*)?
        const _: () = {
            extern "C" fn manifest() -> $crate::__private::RResult<$crate::__private::RString, $crate::__private::AbiError> {
                $crate::__private::manifest_json(
                    env!("CARGO_PKG_NAME"),
                    env!("CARGO_PKG_VERSION"),
                    env!("CARGO_PKG_LICENSE"),
                )
            }
            fn root() -> $crate::__private::PluginRoot_Ref {
                $crate::__private::root_module(manifest)
            }
            extern "C" fn construct() -> $crate::__private::RootModuleResult {
                $crate::__private::__call_root_module_loader(root)
            }
            // The name that abi_stable looks for; `qbench-abi` tests that it is this one.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            // SAFETY: `construct` builds the root module of the named type, as the constructor's contract asks.
            pub static QBENCH_PLUGIN: $crate::__private::LibHeader = unsafe {
                $crate::__private::LibHeader::from_constructor::<$crate::__private::PluginRoot_Ref>(
                    construct,
                    $crate::__private::CheckTypeLayout::Yes,
                )
            };
        };
    };
}
