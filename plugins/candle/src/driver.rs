//! The GPUs that the driver shows.

use std::{env, fs};

use candle_core::cuda_backend::cudarc::driver::{
    result::{self, device},
    sys::{self, CUdevice_attribute},
};
use qbench_kernels::libraries;
use qbench_sdk::{Error, Result, backend::DeviceInfo};

/// What candle's device opens, each library after those that it needs itself.
const NEEDED: [&str; 3] = ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"];

/// What ids of devices start with.
const PREFIX: &str = "cuda:";

/// The CUDA version that the kernels were compiled with: a driver must know its major version.
const CUDA_MAJOR: i32 = 13;

/// Major compute capabilities that the kernels were compiled for; others compile them at first use.
pub(crate) const COMPILED_FOR: [i32; 4] = [8, 9, 10, 12];

/// The oldest GPUs that run the kernels at all: bf16 on tensor cores.
const OLDEST: i32 = 8;

fn none(why: impl std::fmt::Display) -> Error {
    Error::Internal(format!("no CUDA device: {why}"))
}

/// Opens the driver and CUDA's libraries, and counts the devices.
fn start() -> Result<i32> {
    libraries::open_driver().map_err(none)?;
    let visible = env::var("CUDA_VISIBLE_DEVICES")
        .map(|value| format!(" (CUDA_VISIBLE_DEVICES is `{value}`)"))
        .unwrap_or_default();
    result::init().map_err(|error| none(format!("the driver does not start: {error}{visible}")))?;
    check_version(driver_version()?)?;
    let count = device::get_count().map_err(none)?;
    if count == 0 {
        return Err(none(format!("the driver shows none{visible}")));
    }
    libraries::open_all(&NEEDED, "nvidia-cublas nvidia-curand").map_err(none)?;
    Ok(count)
}

/// `1000 · major + 10 · minor`.
fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: `version` is a place for the answer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(none)?;
    Ok(version)
}

fn check_version(version: i32) -> Result<()> {
    if version / 1000 >= CUDA_MAJOR {
        return Ok(());
    }
    Err(none(format!(
        "the driver knows CUDA {} only, this plugin needs {CUDA_MAJOR}.0: install driver 580 or later",
        version_text(version)
    )))
}

fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// All devices, in the driver's order, which is that of `CUDA_VISIBLE_DEVICES`.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>> {
    let count = start()?;
    let cuda = version_text(driver_version()?);
    (0..count)
        .map(|ordinal| describe(ordinal, &cuda).map_err(none))
        .collect()
}

fn describe(ordinal: i32, cuda: &str) -> Result<DeviceInfo, result::DriverError> {
    let handle = device::get(ordinal)?;
    // SAFETY: the handle is a device's.
    let attribute = |attribute| unsafe { device::get_attribute(handle, attribute) };
    let uuid = device::get_uuid(handle)?;
    let hex: Vec<String> = uuid
        .bytes
        .iter()
        .map(|byte| format!("{:02x}", *byte as u8))
        .collect();
    let uuid = [0..4, 4..6, 6..8, 8..10, 10..16]
        .map(|part| hex[part].concat())
        .join("-");
    Ok(DeviceInfo {
        id: format!("{PREFIX}{ordinal}"),
        name: device::get_name(handle)?,
        // SAFETY: the handle is a device's.
        memory_bytes: Some(unsafe { device::total_mem(handle)? } as u64),
        driver: kernel_driver_version(),
        cuda: cuda.to_owned(),
        uuid: format!("GPU-{uuid}"),
        details: format!(
            "compute capability {}.{}, {} multiprocessors",
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        ),
    })
}

/// The version of the kernel module, such as `580.159.04`; empty where `/proc` does not tell.
fn kernel_driver_version() -> String {
    fs::read_to_string("/proc/driver/nvidia/version")
        .ok()
        .as_deref()
        .and_then(version_in)
        .unwrap_or_default()
        .to_owned()
}

/// The first word of numbers and two or more points.
fn version_in(text: &str) -> Option<&str> {
    text.split_whitespace().find(|word| {
        word.split('.').count() >= 2
            && word
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// A device by the driver's number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) ordinal: usize,
    /// Major and minor compute capability.
    pub(crate) capability: (i32, i32),
}

/// The driver's number of the device with this id, of so many.
fn ordinal(id: &str, count: i32) -> Result<i32> {
    let known = || {
        let ids: Vec<String> = (0..count).map(|ordinal| format!("{PREFIX}{ordinal}")).collect();
        ids.join(", ")
    };
    id.strip_prefix(PREFIX)
        .and_then(|number| number.parse::<i32>().ok())
        .filter(|ordinal| (0..count).contains(ordinal))
        .ok_or_else(|| Error::NotFound(format!("device `{id}`; there are: {}", known())))
}

/// The device with this id.
pub(crate) fn find(id: &str) -> Result<Found> {
    let count = start()?;
    let ordinal = ordinal(id, count)?;
    let handle = device::get(ordinal).map_err(none)?;
    // SAFETY: the handle is a device's.
    let attribute = |attribute| unsafe { device::get_attribute(handle, attribute) }.map_err(none);
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    if major < OLDEST {
        return Err(Error::Unsupported(format!(
            "device `{id}` has compute capability {major}.x; the kernels need {OLDEST}.0 (Ampere) or later"
        )));
    }
    Ok(Found {
        ordinal: ordinal as usize,
        capability: (major, minor),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_drivers_file() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 12";
        assert_eq!(version_in(text), Some("580.159.04"));
        assert_eq!(version_in("nothing here 12"), None);
        assert_eq!(version_text(13000), "13.0");
        assert_eq!(version_text(12080), "12.8");
    }

    #[test]
    fn a_driver_that_is_too_old_is_named_with_what_to_do() {
        assert!(check_version(13_000).is_ok() && check_version(13_020).is_ok());
        let error = check_version(12_080).unwrap_err().to_string();
        assert!(
            error.contains("CUDA 12.8 only") && error.contains("needs 13.0: install driver 580 or later"),
            "{error}"
        );
    }

    #[test]
    fn a_device_that_is_not_there_is_answered_with_those_that_are() {
        assert_eq!(ordinal("cuda:1", 2).unwrap(), 1);
        for id in ["cuda:2", "cuda:-1", "cuda", "cuda:", "gpu:0", "cuda:99999999999"] {
            let error = ordinal(id, 2).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{id}`; there are: cuda:0, cuda:1")),
                "{error}"
            );
        }
    }

    #[test]
    fn devices_are_listed_or_the_reason_is_said() {
        match devices() {
            Ok(devices) => assert!(devices.iter().all(|device| device.id.starts_with(PREFIX))),
            Err(error) => assert!(error.to_string().contains("no CUDA device: "), "{error}"),
        }
    }
}
