//! Energy counters of the device that a cell runs on, and the facts about GPUs that NVML tells.

pub mod nvml;
mod recorder;
mod visible;

pub use recorder::Recorder;

use qbench_core::measure::energy::{Powercap, Sampler};
use qbench_sdk::backend::DeviceInfo;

/// A device's counters, with doubts about them.
pub struct Opened {
    pub sampler: Box<dyn Sampler>,
    pub notes: Vec<String>,
}

/// The counters of a device.
///
/// # Errors
/// Why there are none, as a sentence for tables and reports.
pub fn open(device: &DeviceInfo) -> Result<Opened, String> {
    match device.id.split(':').next() {
        Some("cpu") => Ok(Opened {
            sampler: Box::new(Powercap::open()?),
            notes: vec!["the processor's counters count everything that runs on it".to_owned()],
        }),
        Some("cuda") => nvml::open(device),
        _ => Err(format!("no energy counters are known for device {}", device.id)),
    }
}
