//! A plugin of another major version of the ABI: its root module has another type and its header says 2.0.0.
#![allow(
    non_local_definitions,
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "abi_stable's macros expand to items that these lints object to"
)]

use abi_stable::{
    StableAbi, declare_root_module_statics, export_root_module, library::RootModule, package_version_strings,
    prefix_type::PrefixTypeTrait, sabi_types::VersionStrings,
};

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = Root_Ref)))]
#[sabi(missing_field(panic))]
pub struct Root {
    #[sabi(last_prefix_field)]
    pub everything_is_different: extern "C" fn(u64) -> u64,
}

impl RootModule for Root_Ref {
    declare_root_module_statics! { Root_Ref }
    const BASE_NAME: &'static str = "qbench_plugin";
    const NAME: &'static str = "qbench-plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

extern "C" fn different(value: u64) -> u64 {
    value
}

#[export_root_module]
pub fn root() -> Root_Ref {
    Root {
        everything_is_different: different,
    }
    .leak_into_prefix()
}
