//! What a GPU is.

use cudarc::driver::{
    result::{self, DriverError, device},
    sys::{self, CUdevice_attribute},
};

use crate::{Error, Result, error::check};

/// A GPU, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The hardware's name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Its identity, `GPU-8dfe9b5c-…`.
    pub uuid: String,
    /// Major and minor compute capability.
    pub capability: (i32, i32),
    /// Its multiprocessors.
    pub multiprocessors: i32,
}

/// The GPU of that number, in the driver's order, which is that of `CUDA_VISIBLE_DEVICES`.
///
/// # Errors
/// [`Error::NoDriver`]; [`Error::Driver`] when there is no such GPU.
pub fn describe(ordinal: i32) -> Result<Device> {
    // SAFETY: opening the driver's library runs only its own initialisers.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    read(ordinal).or_else(|error| {
        check(error.0, || format!("description of GPU {ordinal}"))?;
        Err(Error::Unsupported(error.to_string()))
    })
}

fn read(ordinal: i32) -> std::result::Result<Device, DriverError> {
    result::init()?;
    let handle = device::get(ordinal)?;
    // SAFETY: the handle is a device's.
    let attribute = |attribute| unsafe { device::get_attribute(handle, attribute) };
    let hex: Vec<String> = device::get_uuid(handle)?
        .bytes
        .iter()
        .map(|byte| format!("{:02x}", *byte as u8))
        .collect();
    let uuid = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex[part].concat());
    Ok(Device {
        name: device::get_name(handle)?,
        // SAFETY: the handle is a device's.
        memory_bytes: unsafe { device::total_mem(handle)? } as u64,
        uuid: format!("GPU-{}", uuid.join("-")),
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    })
}

/// The version of CUDA that the driver knows, `13.0`, and that of its kernel module, `580.159.04`; each empty where it
/// cannot be found out.
pub fn driver_versions() -> (String, String) {
    let mut version = 0;
    // SAFETY: opening the driver's library runs only its own initialisers; `version` is a place for the answer.
    let known =
        unsafe { sys::is_culib_present() && sys::cuDriverGetVersion(&raw mut version).result().is_ok() };
    let cuda = if known {
        format!("{}.{}", version / 1000, version % 1000 / 10)
    } else {
        String::new()
    };
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    (cuda, version_in(&text).unwrap_or_default().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_drivers_file() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 12";
        assert_eq!(version_in(text), Some("580.159.04"));
        assert_eq!(version_in("nothing here 12"), None);
    }

    #[test]
    fn without_a_driver_there_is_no_device() {
        // SAFETY: as in `describe`.
        if !unsafe { sys::is_culib_present() } {
            assert!(matches!(describe(0), Err(Error::NoDriver)));
            assert_eq!(driver_versions().0, "");
        }
    }
}
