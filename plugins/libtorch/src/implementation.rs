//! The backend's implementation: a plugin like any other, but one that can be opened only after libtorch.

use std::{
    ffi::{CStr, OsStr},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use qbench_sdk::{
    Backend, Error, Options, Result,
    host::{HEADER_SYMBOL, Header, LogSink, Plugin, set_log_sink},
    log::{self, Level},
};

use crate::{
    install::{self, Install},
    open,
};

/// The library beside this one.
const LIBRARY: &str = "libtorch_backend.so";

/// The implementation, and the libtorch that it runs on.
pub(crate) struct Loaded {
    header: Header,
    install: Install,
    cuda: Result<(), String>,
}

impl Loaded {
    /// Opens the implementation's backend.
    ///
    /// # Errors
    /// Options that it does not take; an implementation of another version.
    pub(crate) fn backend(&self, options: &Options) -> Result<Box<dyn Backend>> {
        let plugin =
            Plugin::open(self.header).map_err(|error| Error::Internal(format!("{LIBRARY}: {error}")))?;
        plugin.open_backend("libtorch", options)
    }

    /// What was found, for the user.
    pub(crate) fn describe(&self) -> String {
        let (version, folder) = (&self.install.version, self.install.folder.display());
        match &self.cuda {
            Ok(()) => format!("torch {version} of {folder}, with CUDA"),
            Err(reason) => format!("torch {version} of {folder}, without CUDA: {reason}"),
        }
    }
}

/// The implementation, loaded once in a process.
///
/// # Errors
/// Why there is no libtorch or no implementation, the same each time.
pub(crate) fn loaded() -> Result<&'static Loaded> {
    static LOADED: OnceLock<std::result::Result<Loaded, String>> = OnceLock::new();
    LOADED
        .get_or_init(load)
        .as_ref()
        .map_err(|reason| Error::Internal(reason.clone()))
}

fn load() -> std::result::Result<Loaded, String> {
    let install = install::find()?;
    let cuda =
        open::torch(&install).map_err(|reason| format!("torch of {}: {reason}", install.folder.display()))?;
    let path = folder_of_this_library()?.join(LIBRARY);
    if !path.exists() {
        return Err(format!(
            "{} is missing: it belongs beside this plugin, copy both from plugins/libtorch/target/release",
            path.display()
        ));
    }
    let header = header_of(&path).map_err(|reason| format!("{}: {reason}", path.display()))?;
    Ok(Loaded {
        header,
        install,
        cuda,
    })
}

fn header_of(path: &Path) -> std::result::Result<Header, String> {
    // What the implementation says goes on to our host.
    set_log_sink(LogSink {
        enabled: |_| true,
        write: |level: Level, target, message| log::log(level, target, message),
    });
    let library = open::library(path)?;
    // SAFETY: a library that exports this symbol was made by abi_stable, which exports its header there.
    let header = unsafe { library.get::<Header>(HEADER_SYMBOL.as_bytes()) }
        .map(|header| *header)
        .map_err(|_| "it is not the backend's implementation".to_owned())?;
    // Before it is used: its library stays until the process ends.
    std::mem::forget(library);
    Ok(header)
}

fn folder_of_this_library() -> std::result::Result<PathBuf, String> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    let address = (folder_of_this_library as *const ()).cast();
    // SAFETY: the address is one of this library's; `info` is a place for the answer.
    let known = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: all zeros is a value of the type, which `dladdr` may have filled.
    let name = unsafe { info.assume_init() }.dli_fname;
    if known == 0 || name.is_null() {
        return Err("the loader does not tell where this plugin lies".to_owned());
    }
    // SAFETY: the loader's text, which ends with a zero byte and stays while this library does.
    let name = unsafe { CStr::from_ptr(name) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    let path = path
        .canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path.parent().unwrap_or(Path::new("/")).to_path_buf())
}
