//! NVIDIA GPUs as NVML shows them. The driver's library is loaded when it is first asked for.

use std::{env, ffi::OsStr, sync::LazyLock, time::Duration};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor},
    enums::device::SampleValue,
    error::NvmlError,
    structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT,
};
use qbench_core::measure::energy::{Pace, Sample, Sampler};
use qbench_sdk::backend::DeviceInfo;
use serde::Serialize;

use super::{
    Opened,
    visible::{Gpu, resolve},
};

/// Without the `.1`, which is what the driver installs, the library is there on machines of developers only.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Several readings for each step of the energy counter, at a cost far below a percent of a core.
const PAUSE: Duration = Duration::from_millis(10);

static NVML: LazyLock<Result<Nvml, String>> = LazyLock::new(|| {
    Nvml::builder()
        .lib_path(OsStr::new(LIBRARY))
        .init()
        .map_err(|error| match error {
            NvmlError::LibloadingError(_) => {
                format!("no energy counters: {LIBRARY}, of NVIDIA's driver, is not there")
            }
            error => format!("no energy counters: NVML does not start: {error}"),
        })
});

fn nvml() -> Result<&'static Nvml, String> {
    NVML.as_ref().map_err(Clone::clone)
}

/// The GPU that a backend's device is.
///
/// # Errors
/// Why it cannot be told.
pub fn find(device: &DeviceInfo) -> Result<Device<'static>, String> {
    let nvml = nvml()?;
    let said = |error: NvmlError| format!("NVML: {error}");
    if device.uuid.starts_with("GPU-") {
        return nvml
            .device_by_uuid(device.uuid.as_str())
            .map_err(|error| format!("NVML does not know GPU {}: {error}", device.uuid));
    }
    if device.uuid.starts_with("MIG-") {
        return Err(format!(
            "{} is a MIG instance: energy is counted for whole GPUs only",
            device.uuid
        ));
    }
    let (_, ordinal) = device.id.split_once(':').unwrap_or(("", "0"));
    let ordinal = ordinal
        .parse()
        .map_err(|_| format!("device `{}`: expected cuda:N", device.id))?;
    let mut gpus = Vec::new();
    for index in 0..nvml.device_count().map_err(said)? {
        let gpu = nvml.device_by_index(index).map_err(said)?;
        gpus.push(Gpu {
            uuid: gpu.uuid().map_err(said)?,
            name: gpu.name().map_err(said)?,
        });
    }
    let variable = |name: &str| env::var(name).ok();
    let (visible, order) = (variable("CUDA_VISIBLE_DEVICES"), variable("CUDA_DEVICE_ORDER"));
    let place = resolve(ordinal, visible.as_deref(), order.as_deref(), &gpus)?;
    nvml.device_by_index(place as u32).map_err(said)
}

/// The counters of a GPU.
///
/// # Errors
/// Why there are none.
pub fn open(device: &DeviceInfo) -> Result<Opened, String> {
    let gpu = find(device)?;
    if gpu.mig_mode().is_ok_and(|mode| mode.current != 0) {
        return Err(
            "the GPU is divided into MIG instances: energy is counted for the whole GPU only".to_owned(),
        );
    }
    let mut sampler = NvmlSampler { gpu };
    let first = sampler.read()?;
    if first.counter_joules.is_none() && first.watts.is_none() {
        return Err("the GPU shows neither an energy counter nor instant power".to_owned());
    }
    let mut notes = Vec::new();
    // The worker itself is one of them, where it has a context.
    let others = sampler
        .gpu
        .running_compute_processes_count()
        .unwrap_or_default()
        .saturating_sub(1);
    if others > 0 {
        notes.push(format!(
            "{others} other processes use the GPU: its energy is not this cell's alone"
        ));
    }
    Ok(Opened {
        sampler: Box::new(sampler),
        notes,
    })
}

struct NvmlSampler {
    gpu: Device<'static>,
}

impl Sampler for NvmlSampler {
    fn source(&self) -> String {
        let name = self.gpu.name().unwrap_or_default();
        let uuid = self.gpu.uuid().unwrap_or_default();
        format!("NVML: {name} {uuid}")
    }

    fn pace(&self) -> Pace {
        Pace::Every(PAUSE)
    }

    fn read(&mut self) -> Result<Sample, String> {
        let counter_joules = match self.gpu.total_energy_consumption() {
            Ok(millijoules) => Some(millijoules as f64 / 1e3),
            Err(NvmlError::NotSupported) => None,
            Err(error) => return Err(format!("NVML: the energy counter cannot be read: {error}")),
        };
        let clock = |clock| self.gpu.clock_info(clock).ok().map(f64::from);
        Ok(Sample {
            counter_joules,
            watts: self.instant_watts(),
            sm_clock_mhz: clock(Clock::SM),
            memory_clock_mhz: clock(Clock::Memory),
            celsius: self.gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            throttle: self
                .gpu
                .current_throttle_reasons()
                .map(throttle_names)
                .unwrap_or_default(),
        })
    }
}

impl NvmlSampler {
    /// Instant power by its field: what `nvmlDeviceGetPowerUsage` gives is a mean over a second since Ampere.
    fn instant_watts(&self) -> Option<f64> {
        let values = self
            .gpu
            .field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])
            .ok()?;
        match values.into_iter().next()?.ok()?.value.ok()? {
            SampleValue::U32(milliwatts) => Some(f64::from(milliwatts) / 1e3),
            SampleValue::U64(milliwatts) => Some(milliwatts as f64 / 1e3),
            SampleValue::F64(_) | SampleValue::I64(_) => None,
        }
    }
}

/// Reasons by name; an idle device is none.
fn throttle_names(reasons: ThrottleReasons) -> Vec<String> {
    (reasons - ThrottleReasons::GPU_IDLE)
        .iter_names()
        .filter(|(_, reason)| !reason.is_empty())
        .map(|(name, _)| name.to_lowercase())
        .collect()
}

/// Bytes in use on the whole GPU.
pub fn used_bytes(gpu: &Device<'_>) -> Option<u64> {
    gpu.memory_info().ok().map(|memory| memory.used)
}

/// What is worth knowing of a GPU to repeat a run. What NVML does not show is `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GpuFacts {
    pub uuid: Option<String>,
    pub name: Option<String>,
    pub driver: Option<String>,
    /// The newest CUDA that the driver knows.
    pub cuda: Option<String>,
    pub pci_bus_id: Option<String>,
    pub memory_bytes: Option<u64>,
    pub ecc: Option<bool>,
    pub mig: Option<bool>,
    pub power_cap_watts: Option<f64>,
    pub default_power_cap_watts: Option<f64>,
    pub sm_clock_mhz: Option<u32>,
    pub largest_sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub largest_memory_clock_mhz: Option<u32>,
    pub celsius: Option<u32>,
    /// Processes that compute on it, before the run starts.
    pub compute_processes: Option<u32>,
}

/// The facts of the GPU that a backend's device is.
///
/// # Errors
/// Why there are none.
pub fn facts(device: &DeviceInfo) -> Result<GpuFacts, String> {
    let gpu = find(device)?;
    let nvml = nvml()?;
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
    Ok(GpuFacts {
        uuid: gpu.uuid().ok(),
        name: gpu.name().ok(),
        driver: nvml.sys_driver_version().ok(),
        cuda: nvml
            .sys_cuda_driver_version()
            .ok()
            .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
        pci_bus_id: gpu.pci_info().ok().map(|pci| pci.bus_id),
        memory_bytes: gpu.memory_info().ok().map(|memory| memory.total),
        ecc: gpu.is_ecc_enabled().ok().map(|state| state.currently_enabled),
        mig: gpu.mig_mode().ok().map(|mode| mode.current != 0),
        power_cap_watts: gpu.enforced_power_limit().ok().map(watts),
        default_power_cap_watts: gpu.power_management_limit_default().ok().map(watts),
        sm_clock_mhz: gpu.clock_info(Clock::SM).ok(),
        largest_sm_clock_mhz: gpu.max_clock_info(Clock::SM).ok(),
        memory_clock_mhz: gpu.clock_info(Clock::Memory).ok(),
        largest_memory_clock_mhz: gpu.max_clock_info(Clock::Memory).ok(),
        celsius: gpu.temperature(TemperatureSensor::Gpu).ok(),
        compute_processes: gpu.running_compute_processes_count().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_no_reason_to_throttle() {
        let reasons =
            ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_SLOWDOWN;
        assert_eq!(throttle_names(reasons), ["sw_power_cap", "hw_slowdown"]);
        assert!(throttle_names(ThrottleReasons::GPU_IDLE).is_empty());
    }
}
