//! What the machine is, read from `/proc` and the processor.

use std::fs;

use qbench_sdk::backend::DeviceInfo;

/// The only device.
pub(crate) const DEVICE: &str = "cpu";

/// The processor as a device. What cannot be read is left empty.
pub(crate) fn device() -> DeviceInfo {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceInfo {
        id: DEVICE.to_owned(),
        name: model_name(&cpuinfo).unwrap_or(std::env::consts::ARCH).to_owned(),
        memory_bytes: total_memory(&meminfo),
        details: format!("{threads} threads; {}", instruction_sets().join(" ")),
        ..DeviceInfo::default()
    }
}

fn model_name(cpuinfo: &str) -> Option<&str> {
    value(cpuinfo, "model name").filter(|name| !name.is_empty())
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = value(meminfo, "MemTotal")?
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    kibibytes.checked_mul(1024)
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt)*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let known = detected!("sse4.2" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vnni" "avx512bf16");
    known
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu\n\nprocessor\t: 1\n";
        assert_eq!(model_name(cpuinfo), Some("AMD EPYC 9654"));
        assert_eq!(model_name("processor\t: 0\n"), None);
        assert_eq!(
            total_memory("MemTotal:       24689372 kB\n"),
            Some(25_281_916_928)
        );
        assert_eq!(total_memory("MemTotal: many\n"), None);
    }

    #[test]
    fn this_machine_is_a_device() {
        let device = device();
        assert_eq!(device.id, "cpu");
        assert!(!device.name.is_empty() && device.details.contains("threads"));
    }
}
