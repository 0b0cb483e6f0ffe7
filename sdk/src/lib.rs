#![doc = include_str!("../README.md")]

pub mod backend;
mod bridge;
mod buffer;
pub mod conformance;
pub mod cuda_kernel;
mod dtype;
mod error;
pub mod layout;
pub mod log;
mod matrix;
mod options;
pub mod parallel;
mod plugin;
mod scheme;
mod weights;

pub use backend::{Backend, Model};
pub use buffer::AlignedBuffer;
pub use cuda_kernel::CudaKernel;
pub use dtype::DType;
pub use error::{Error, Result};
pub use layout::Layout;
pub use matrix::{Matrix, MatrixMut, narrow, widen};
pub use options::Options;
pub use plugin::{BackendEntry, PluginManifest, SchemeEntry};
pub use scheme::{CallContext, QuantScheme, SchemeInfo};
pub use weights::{StoredTensor, Weights};

/// The other side of the bridge: what a program that *loads* plugins needs. Authors of plugins do not.
pub mod host {
    pub use crate::bridge::{
        c::{ABI as C_ABI, ENTRY_SYMBOL as C_ENTRY_SYMBOL, Entry as CEntry},
        root::{LoadError, Plugin},
        services::{LogSink, set_log_sink},
    };
    /// The symbol under which a plugin's library exports a [`Header`], with its final zero byte.
    pub use qbench_abi::HEADER_SYMBOL;
    /// What a plugin's library exports, as it is found there: not yet checked.
    pub use qbench_abi::abi_stable::library::AbiHeaderRef as Header;
}

#[doc(hidden)]
pub mod __private {
    pub use crate::bridge::root::{manifest_json, root_module};
    pub use inventory;
    pub use qbench_abi::abi_stable::{
        library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult},
        std_types::{RResult, RString},
    };
    pub use qbench_abi::{AbiError, PluginRoot_Ref};
}
