//! What the machine is, as far as it bears on measurements.

use std::{collections::BTreeMap, fs, path::Path};

use procfs::{CpuInfo, Current, Meminfo};
use serde::Serialize;

/// Facts about the machine. What cannot be read is `None`, and `missing` says why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    pub kernel: Option<String>,
    pub cpu: Option<String>,
    /// Processors that are online.
    pub processors: Option<usize>,
    pub cpu_flags: Vec<String>,
    /// Who decides about the clock: `performance`, `powersave`, …
    pub governor: Option<String>,
    /// Processors of each NUMA node, `0-15`.
    pub numa_nodes: BTreeMap<String, String>,
    pub memory_bytes: Option<u64>,
    pub available_memory_bytes: Option<u64>,
    pub transparent_huge_pages: Option<String>,
    pub missing: BTreeMap<&'static str, String>,
}

impl Machine {
    /// Reads everything.
    pub fn read() -> Self {
        let mut machine = Self::default();
        machine.kernel = machine.text("kernel", "/proc/version");
        machine.governor = machine.text(
            "governor",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        );
        machine.transparent_huge_pages = machine.text(
            "transparent_huge_pages",
            "/sys/kernel/mm/transparent_hugepage/enabled",
        );
        machine.read_processors();
        machine.read_memory();
        machine.read_nodes(Path::new("/sys/devices/system/node"));
        machine
    }

    fn text(&mut self, what: &'static str, path: &str) -> Option<String> {
        match fs::read_to_string(path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) => {
                self.missing.insert(what, format!("{path}: {error}"));
                None
            }
        }
    }

    fn read_processors(&mut self) {
        match CpuInfo::current() {
            Ok(info) => {
                self.processors = Some(info.num_cores());
                self.cpu = info.model_name(0).map(str::to_owned);
                let flags = info.flags(0).unwrap_or_default();
                self.cpu_flags = flags.into_iter().map(str::to_owned).collect();
                self.cpu_flags.sort();
            }
            Err(error) => {
                self.missing.insert("cpu", format!("/proc/cpuinfo: {error}"));
            }
        }
    }

    fn read_memory(&mut self) {
        match Meminfo::current() {
            Ok(info) => {
                self.memory_bytes = Some(info.mem_total);
                self.available_memory_bytes = info.mem_available;
            }
            Err(error) => {
                self.missing
                    .insert("memory_bytes", format!("/proc/meminfo: {error}"));
            }
        }
    }

    fn read_nodes(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name
                .strip_prefix("node")
                .is_some_and(|rest| rest.parse::<u32>().is_ok());
            if let Some(processors) = fs::read_to_string(entry.path().join("cpulist"))
                .ok()
                .filter(|_| number)
            {
                self.numa_nodes.insert(name, processors.trim().to_owned());
            }
        }
        if self.numa_nodes.is_empty() {
            let reason = format!("{} lists no node", directory.display());
            self.missing.insert("numa_nodes", reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_a_reason() {
        let machine = Machine::read();
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(machine.processors.is_some_and(|count| count > 0));
        assert!(machine.governor.is_some() != machine.missing.contains_key("governor"));
        let mut elsewhere = Machine::default();
        elsewhere.read_nodes(Path::new("/nonexistent"));
        assert!(elsewhere.missing["numa_nodes"].contains("/nonexistent"));
    }
}
