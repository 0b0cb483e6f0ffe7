//! The devices that torch has: the CPU, and the GPUs where its CUDA libraries are in the process.

use qbench_kernels::device;
use qbench_sdk::{Error, Result, backend::DeviceInfo};
use tch::{Cuda, Device};

/// What ids of GPUs start with.
const PREFIX: &str = "cuda:";

/// GPUs that torch sees; none where the process has only torch's CPU libraries.
fn gpus() -> usize {
    // Torch asks its CUDA hooks, which are there once libtorch_cuda is.
    if Cuda::is_available() {
        Cuda::device_count() as usize
    } else {
        0
    }
}

/// All devices.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>> {
    let mut devices = vec![cpu()];
    for ordinal in 0..gpus() {
        devices.push(gpu(ordinal)?);
    }
    Ok(devices)
}

/// The device of that id.
pub(crate) fn find(id: &str) -> Result<Device> {
    if id == "cpu" {
        return Ok(Device::Cpu);
    }
    let count = gpus();
    id.strip_prefix(PREFIX)
        .and_then(|number| number.parse().ok())
        .filter(|ordinal| *ordinal < count)
        .map(Device::Cuda)
        .ok_or_else(|| {
            let known: Vec<String> = std::iter::once("cpu".to_owned())
                .chain((0..count).map(|ordinal| format!("{PREFIX}{ordinal}")))
                .collect();
            Error::NotFound(format!("device `{id}`; there are: {}", known.join(", ")))
        })
}

/// Major and minor compute capability of a GPU; `None` for the CPU.
pub(crate) fn capability(device: Device) -> Result<Option<(i32, i32)>> {
    match device {
        Device::Cuda(ordinal) => Ok(Some(describe(ordinal)?.capability)),
        _ => Ok(None),
    }
}

fn describe(ordinal: usize) -> Result<device::Device> {
    device::describe(ordinal as i32).map_err(|error| Error::Internal(format!("{PREFIX}{ordinal}: {error}")))
}

fn gpu(ordinal: usize) -> Result<DeviceInfo> {
    let found = describe(ordinal)?;
    let (cuda, driver) = device::driver_versions();
    Ok(DeviceInfo {
        id: format!("{PREFIX}{ordinal}"),
        name: found.name,
        memory_bytes: Some(found.memory_bytes),
        driver,
        cuda,
        uuid: found.uuid,
        details: format!(
            "compute capability {}.{}, {} multiprocessors",
            found.capability.0, found.capability.1, found.multiprocessors
        ),
    })
}

/// The processor. What cannot be read is left empty.
fn cpu() -> DeviceInfo {
    let value = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.split_once(':'));
        value.map(|(_, value)| value.trim().to_owned())
    };
    let kibibytes =
        value("/proc/meminfo", "MemTotal").and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceInfo {
        id: "cpu".to_owned(),
        name: value("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory_bytes: kibibytes.map(|kibibytes| kibibytes * 1024),
        details: format!("{threads} threads"),
        ..DeviceInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_a_device_and_an_unknown_one_is_named() {
        let devices = devices().unwrap();
        let cpu = &devices[0];
        assert!(
            cpu.id == "cpu" && !cpu.name.is_empty() && cpu.memory_bytes > Some(1 << 28),
            "{cpu:?}"
        );
        assert_eq!(find("cpu").unwrap(), Device::Cpu);
        for id in ["cuda:99", "cuda", "gpu", "cuda:-1"] {
            let error = find(id).unwrap_err().to_string();
            assert!(error.contains(id) && error.contains("there are: cpu"), "{error}");
        }
    }
}
