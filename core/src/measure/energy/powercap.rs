//! Energy of the processor, from the counters that Linux shows under `/sys/class/powercap`.
//!
//! A counter counts microjoules of a whole package (and, where there is one, of its memory), whoever uses it, and wraps
//! around at `max_energy_range_uj`. It is read at the edges of the timed region only: polling costs energy itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Pace, Sample, Sampler};

/// Where Linux shows the counters.
const POWERCAP: &str = "/sys/class/powercap";

/// Counters of the processor's packages and memories.
#[derive(Debug)]
pub struct Powercap {
    domains: Vec<Domain>,
}

#[derive(Debug)]
struct Domain {
    name: String,
    counter: PathBuf,
    range_microjoules: u64,
    /// The counter at the last reading.
    last: u64,
    /// Microjoules since the first reading.
    total: u64,
}

impl Domain {
    /// Microjoules since the first reading, a wrap-around since the last one taken into account.
    fn read(&mut self) -> Result<u64, String> {
        let now = read_number(&self.counter)?;
        self.total += if now >= self.last {
            now - self.last
        } else {
            self.range_microjoules - self.last + now
        };
        self.last = now;
        Ok(self.total)
    }
}

impl Powercap {
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
            let last = read_number(&counter).map_err(|error| {
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
                name: name.trim().to_owned(),
                counter,
                range_microjoules,
                last,
                total: 0,
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
}

impl Sampler for Powercap {
    fn source(&self) -> String {
        let mut names: Vec<&str> = self.domains.iter().map(|domain| domain.name.as_str()).collect();
        names.sort_unstable();
        format!("powercap: {}", names.join(", "))
    }

    fn pace(&self) -> Pace {
        Pace::Edges
    }

    fn read(&mut self) -> Result<Sample, String> {
        let mut microjoules = 0;
        for domain in &mut self.domains {
            microjoules += domain
                .read()
                .map_err(|error| format!("{}: {error}", domain.counter.display()))?;
        }
        Ok(Sample {
            counter_joules: Some(microjoules as f64 / 1e6),
            ..Sample::default()
        })
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
        let mut meter = Powercap::open_at(root.path()).unwrap();
        assert_eq!(meter.source(), "powercap: dram, package-0");
        assert_eq!(meter.read().unwrap().counter_joules, Some(0.0));
        domain(root.path(), "intel-rapl:0", "package-0", "400000\n");
        domain(root.path(), "intel-rapl:0:1", "dram", "500100\n");
        // The package wrapped around at 1 J: 0.1 J to the range's end and 0.4 J after it; the memory used 0.5 J.
        assert_eq!(meter.read().unwrap().counter_joules, Some(1.0));
        domain(root.path(), "intel-rapl:0", "package-0", "300000\n");
        assert_eq!(
            meter.read().unwrap().counter_joules,
            Some(1.9),
            "once around but for 0.1 J"
        );
    }

    #[test]
    fn a_missing_counter_is_explained() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            Powercap::open_at(&root.path().join("none"))
                .unwrap_err()
                .contains("no energy counters")
        );
        assert!(
            Powercap::open_at(root.path())
                .unwrap_err()
                .contains("no processor package")
        );
        domain(root.path(), "intel-rapl:0", "package-0", "not a number");
        assert!(
            Powercap::open_at(root.path())
                .unwrap_err()
                .contains("not a number")
        );
    }
}
