//! Messages to the host's log. Never called inside a timed region.

use std::sync::OnceLock;

use qbench_abi::{HostServices, abi_stable::std_types::RStr};

static HOST: OnceLock<HostServices> = OnceLock::new();

pub(crate) fn connect(services: HostServices) {
    // A second `init` of the same library offers the same services.
    let _ = HOST.set(services);
}

/// Severity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The operation failed.
    Error = 1,
    /// The operation goes on, but somebody should know.
    Warning = 2,
    /// A step of the operation.
    Info = 3,
    /// Detail for the developer.
    Debug = 4,
}

/// Hands `message` to the host, which shows it as `plugin::<target>` where that level is shown.
pub fn log(level: Level, target: &str, message: &str) {
    if let Some(host) = HOST.get()
        && (host.log_enabled)(level as u8)
    {
        (host.log)(level as u8, RStr::from(target), RStr::from(message));
    }
}
