//! What the host offers plugins.

use std::{panic::catch_unwind, sync::OnceLock};

use qbench_abi::{
    Extension, HostServices,
    abi_stable::std_types::{RNone, ROption, RStr},
};

use crate::log::Level;

/// Where a plugin's messages go in the program that loads it.
#[derive(Clone, Copy)]
pub struct LogSink {
    /// Whether messages of this level are shown.
    pub enabled: fn(Level) -> bool,
    /// Shows one; `target` says who speaks.
    pub write: fn(level: Level, target: &str, message: &str),
}

static SINK: OnceLock<LogSink> = OnceLock::new();

/// Sets where plugins' messages go; the first call counts. Without it they are dropped.
pub fn set_log_sink(sink: LogSink) {
    let _ = SINK.set(sink);
}

fn level(code: u8) -> Level {
    match code {
        0 | 1 => Level::Error,
        2 => Level::Warning,
        3 => Level::Info,
        _ => Level::Debug,
    }
}

/// Shows a message of a plugin.
pub(super) fn show(code: u8, target: &str, message: &str) {
    if let Some(sink) = SINK.get() {
        // A message that cannot be shown is lost; a panic here would end the process of whoever logs.
        let _ = catch_unwind(|| (sink.write)(level(code), target, message));
    }
}

extern "C" fn log(code: u8, target: RStr<'_>, message: RStr<'_>) {
    show(code, target.as_str(), message.as_str());
}

extern "C" fn log_enabled(code: u8) -> bool {
    SINK.get().is_some_and(|sink| (sink.enabled)(level(code)))
}

extern "C" fn no_extension(_id: RStr<'_>) -> ROption<Extension<'static>> {
    RNone
}

pub(super) fn host_services() -> HostServices {
    HostServices {
        log,
        log_enabled,
        extension: no_extension,
    }
}
