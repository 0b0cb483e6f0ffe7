//! Memory as the system counts it: a witness beside what the backend says of itself.

use nvml_wrapper::Device;
use procfs::process::{ClearRefs, Process};
use qbench_sdk::backend::DeviceInfo;

use crate::energy::nvml;

/// What the system counts for a device, from a moment on.
pub(super) struct Witness {
    counter: Counter,
    before: u64,
}

enum Counter {
    /// Private memory of this process: the device is the host's own memory.
    Process,
    Gpu(Device<'static>),
}

impl Witness {
    /// Starts to count for `device`, where nothing of the model is loaded yet.
    ///
    /// # Errors
    /// Why there is no count.
    pub(super) fn start(device: &DeviceInfo) -> Result<Self, String> {
        let counter = match device.id.split(':').next() {
            Some("cpu") => Counter::Process,
            Some("cuda") => Counter::Gpu(alone(nvml::find(device)?)?),
            _ => return Err(format!("the system shows no memory of device {}", device.id)),
        };
        let before = counter.count()?;
        Ok(Self { counter, before })
    }

    /// Who counts, in words.
    pub(super) fn measured_by(&self) -> String {
        match self.counter {
            Counter::Process => "RssAnon of the process".to_owned(),
            Counter::Gpu(_) => "NVML for the whole GPU".to_owned(),
        }
    }

    /// Whether it counts the host's own memory.
    pub(super) fn on_host(&self) -> bool {
        matches!(self.counter, Counter::Process)
    }

    /// Bytes more than at the start.
    pub(super) fn grown(&self) -> Result<u64, String> {
        Ok(self.counter.count()?.saturating_sub(self.before))
    }
}

/// The GPU, if nobody but this process uses it.
fn alone(gpu: Device<'static>) -> Result<Device<'static>, String> {
    match gpu.running_compute_processes_count() {
        Ok(0 | 1) => Ok(gpu),
        Ok(_) => Err("other processes use the GPU: the memory in use is not this cell's alone".to_owned()),
        Err(error) => Err(format!("NVML does not show who uses the GPU: {error}")),
    }
}

impl Counter {
    fn count(&self) -> Result<u64, String> {
        match self {
            Self::Process => {
                give_back_free_memory();
                anonymous_bytes()
            }
            Self::Gpu(gpu) => nvml::used_bytes(gpu).ok_or_else(|| "NVML shows no memory in use".to_owned()),
        }
    }
}

/// Lets the allocator return what is free, so that only what is held is counted. Plugins share the allocator of the C
/// library with this program.
fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks, and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Private memory of this process that is resident: no mapped files, shared memory included.
fn anonymous_bytes() -> Result<u64, String> {
    let status = Process::myself()
        .and_then(|process| process.status())
        .map_err(|error| format!("/proc/self/status: {error}"))?;
    let kibibytes = status
        .rssanon
        .ok_or("/proc/self/status has no RssAnon")?
        .saturating_add(status.rssshmem.unwrap_or_default());
    Ok(kibibytes * 1024)
}

/// Starts a new peak of the process' resident set, where the system allows that.
pub(super) fn reset_process_peak() -> bool {
    Process::myself().is_ok_and(|process| process.clear_refs(ClearRefs::PeakRSS).is_ok())
}

/// Largest resident set of this process since the last reset.
pub(super) fn process_peak_bytes() -> Option<u64> {
    let status = Process::myself().ok()?.status().ok()?;
    Some(status.vmhwm? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_held_is_counted_and_memory_that_is_freed_is_not() {
        const BYTES: usize = 64 << 20;
        let device = DeviceInfo {
            id: "cpu".to_owned(),
            ..DeviceInfo::default()
        };
        let witness = Witness::start(&device).unwrap();
        let held = std::hint::black_box(vec![1_u8; BYTES]);
        let grown = witness.grown().unwrap();
        assert!(grown >= BYTES as u64, "{grown}");
        drop(held);
        // Other tests of this process allocate, though far less.
        let left = witness.grown().unwrap();
        assert!(left < BYTES as u64 / 2, "{left}");
        assert!(witness.on_host());
    }
}
