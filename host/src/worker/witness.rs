//! Memory as the system counts it: a witness beside what the backend says of itself.

use nvml_wrapper::Device;
use procfs::process::{ClearRefs, Process};
use qbench_sdk::backend::DeviceInfo;

use super::allocator;
use crate::energy::nvml;

/// What the system counts for a device, from a moment on.
pub(super) struct Witness {
    counter: Counter,
    before: [u64; 2],
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
            Counter::Process => "the process".to_owned(),
            Counter::Gpu(_) => "NVML for the whole GPU".to_owned(),
        }
    }

    /// Whether it counts the host's own memory.
    pub(super) fn on_host(&self) -> bool {
        matches!(self.counter, Counter::Process)
    }

    /// Bytes more than at the start, by the count that saw more.
    pub(super) fn grown(&self) -> Result<u64, String> {
        let now = self.counter.count()?;
        let grown = now
            .into_iter()
            .zip(self.before)
            .map(|(now, before)| now.saturating_sub(before));
        Ok(grown.max().unwrap_or_default())
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
    /// Bytes by two counts. Of a process, those in use by the C library's allocator, which plugins share with this
    /// program, and private memory without what lies free in that allocator: memory from elsewhere shows in the second
    /// only. Free memory that the system got back counts as free once more, so that the second is a lower bound.
    fn count(&self) -> Result<[u64; 2], String> {
        match self {
            Self::Process => {
                let allocator = allocator::read()?;
                Ok([allocator.used, anonymous_bytes()?.saturating_sub(allocator.free)])
            }
            Self::Gpu(gpu) => nvml::used_bytes(gpu)
                .map(|bytes| [bytes; 2])
                .ok_or_else(|| "NVML shows no memory in use".to_owned()),
        }
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

    /// Blocks of this size lie in a thread's heap, which keeps what is freed at its end.
    const BLOCK: usize = 100_000;
    const BYTES: usize = 600 * BLOCK;

    #[test]
    #[cfg(target_env = "gnu")]
    fn memory_that_is_held_is_counted_and_memory_that_is_freed_is_not() {
        let device = DeviceInfo {
            id: "cpu".to_owned(),
            ..DeviceInfo::default()
        };
        let witness = Witness::start(&device).unwrap();
        let allocate = || -> Vec<Vec<u8>> { (0..BYTES / BLOCK).map(|_| vec![1; BLOCK]).collect() };
        let (give, take) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let held = allocate();
            give.send(()).unwrap();
            ended.recv().unwrap();
            drop(held);
            give.send(()).unwrap();
            // The thread lives on, and its heap with it.
            ended.recv().unwrap();
        });
        take.recv().unwrap();
        let grown = witness.grown().unwrap();
        assert!(grown >= BYTES as u64, "{grown}");
        end.send(()).unwrap();
        take.recv().unwrap();
        // Other tests of this process allocate, though far less.
        let left = witness.grown().unwrap();
        end.send(()).unwrap();
        thread.join().unwrap();
        assert!(left < BYTES as u64 / 2, "{left}");
        assert!(witness.on_host());
    }
}
