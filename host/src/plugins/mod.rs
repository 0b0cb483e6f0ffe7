//! Plugins as files: where they are looked for, what each offers, and how one is loaded.
//!
//! The host never opens a plugin in its own process: [`Registry::discover`] asks a child process what a file offers,
//! and cells run in workers. A file that crashes, hangs or exits while it is opened takes nothing with it.

mod conformance;
mod elf;
mod load;
mod registry;
mod scan;
mod search;
mod sidecar;

pub use conformance::{ConformanceJob, SubjectKind, conformance_cases, try_case, try_case_in_this_process};
pub use elf::check_library;
pub use load::load;
pub use registry::{BackendChoice, PluginFile, Refused, Registry, SchemeChoice, examine, split_mode};
pub use scan::{Offer, check_in_this_process, check_options, scan_in_this_process};
pub use search::{
    PLUGIN_PATH_VARIABLE, Place, SearchPath, executable_directory, standard_directories, standard_places,
};
pub use sidecar::{Sidecar, sidecar_path};
