//! Energy of the processor, from the counters that Linux shows under `/sys/class/powercap`.
//!
//! A counter counts microjoules of a whole package (and, where there is one, of its memory), whoever uses it, and wraps
//! around at `max_energy_range_uj`. It is read at the edges of the timed region only: polling costs energy itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where Linux shows the counters.
const POWERCAP: &str = "/sys/class/powercap";

/// Counters of the processor's packages and memories.
#[derive(Debug)]
pub struct EnergyMeter {
    domains: Vec<Domain>,
}

#[derive(Debug)]
struct Domain {
    counter: PathBuf,
    range_microjoules: u64,
}

/// The counters at a moment, in microjoules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnergyReading(Vec<u64>);

impl EnergyMeter {
    /// Finds this machine's counters.
    ///
    /// # Errors
    /// Why there is no reading, as a sentence for tables and reports.
    pub fn open() -> Result<Self, String> {
        Self::open_at(Path::new(POWERCAP))
    }

    fn open_at(root: &Path) -> Result<Self, String> {
        let entries = fs::read_dir(root)
            .map_err(|_| format!("no energy counters: this system has no {}", root.display()))?;
        let mut domains = Vec::new();
        for entry in entries.flatten() {
            let directory = entry.path();
            let Ok(name) = fs::read_to_string(directory.join("name")) else {
                continue;
            };
            // A package's cores and graphics are part of the package; its memory is not.
            if !(name.starts_with("package") || name.trim() == "dram") {
                continue;
            }
            let counter = directory.join("energy_uj");
            read_number(&counter).map_err(|error| {
                format!(
                    "no energy reading: {} cannot be read ({error}); on most systems only root may",
                    counter.display()
                )
            })?;
            let range_microjoules = read_number(&directory.join("max_energy_range_uj")).map_err(|error| {
                format!(
                    "no energy reading: {} has no range ({error})",
                    directory.display()
                )
            })?;
            domains.push(Domain {
                counter,
                range_microjoules,
            });
        }
        if domains.is_empty() {
            return Err(format!(
                "no energy counters: {} lists no processor package",
                root.display()
            ));
        }
        Ok(Self { domains })
    }

    /// The counters now; `None` when one cannot be read any more.
    pub fn read(&self) -> Option<EnergyReading> {
        self.domains
            .iter()
            .map(|domain| read_number(&domain.counter).ok())
            .collect::<Option<_>>()
            .map(EnergyReading)
    }

    /// Joules between two readings, wrap-arounds taken into account.
    pub fn joules_between(&self, before: &EnergyReading, after: &EnergyReading) -> f64 {
        let microjoules: u64 = self
            .domains
            .iter()
            .zip(before.0.iter().zip(&after.0))
            .map(|(domain, (&before, &after))| {
                if after >= before {
                    after - before
                } else {
                    domain.range_microjoules - before + after
                }
            })
            .sum();
        microjoules as f64 / 1e6
    }
}

fn read_number(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.trim()
        .parse()
        .map_err(|_| format!("`{}` is no number", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(root: &Path, folder: &str, name: &str, energy: &str) {
        let directory = root.join(folder);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("name"), format!("{name}\n")).unwrap();
        fs::write(directory.join("energy_uj"), energy).unwrap();
        fs::write(directory.join("max_energy_range_uj"), "1000000\n").unwrap();
    }

    #[test]
    fn packages_and_memory_are_added_and_wrap_around() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "900000\n");
        domain(root.path(), "intel-rapl:0:0", "core", "5\n");
        domain(root.path(), "intel-rapl:0:1", "dram", "100\n");
        let meter = EnergyMeter::open_at(root.path()).unwrap();
        let before = meter.read().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "400000\n");
        domain(root.path(), "intel-rapl:0:1", "dram", "500100\n");
        // The package wrapped around at 1 J: 0.1 J to the range's end and 0.4 J after it; the memory used 0.5 J.
        assert_eq!(meter.joules_between(&before, &meter.read().unwrap()), 1.0);
    }

    #[test]
    fn a_missing_counter_is_explained() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            EnergyMeter::open_at(&root.path().join("none"))
                .unwrap_err()
                .contains("no energy counters")
        );
        assert!(
            EnergyMeter::open_at(root.path())
                .unwrap_err()
                .contains("no processor package")
        );
        domain(root.path(), "intel-rapl:0", "package-0", "not a number");
        assert!(
            EnergyMeter::open_at(root.path())
                .unwrap_err()
                .contains("not a number")
        );
    }
}
