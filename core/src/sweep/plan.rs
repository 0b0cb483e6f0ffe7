//! A plan as its file says it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bounded;

/// Similarity, from 0 to 1, from which on a known key is suggested for an unknown one.
const SIMILAR: f64 = 0.7;

/// What is wrong with a plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It cannot be read.
    #[error("cannot read the plan {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no TOML, or says what a plan does not.
    #[error("{}: {message}{suggestion}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        message: String,
        /// The key that may have been meant.
        suggestion: String,
    },
    /// A value that cannot be.
    #[error("{key}: {message}")]
    Value {
        /// Where it stands.
        key: String,
        /// What is wrong, and what was expected.
        message: String,
    },
}

impl PlanError {
    pub(super) fn value(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Value {
            key: key.into(),
            message: message.into(),
        }
    }
}

/// A sweep.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepPlan {
    /// What people call it; the file's name by default.
    pub name: String,
    /// The lists whose every combination is measured.
    pub matrix: Axes,
    /// Further products: axes that one does not name have the matrix' values.
    pub include: Vec<Axes>,
    /// What is left out: every cell that agrees with all axes that an entry names, by wildcards.
    pub exclude: Vec<Axes>,
    /// Options of `qbench run` by their long names, for all cells.
    pub run: BTreeMap<String, toml::Value>,
    /// How tasks are submitted to Slurm.
    pub slurm: SlurmOptions,
}

/// Lists of values, one a dimension; one that is not named has the default of `qbench run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Axes {
    /// Models, as `--model` takes them.
    pub models: Option<Vec<String>>,
    /// Files of sequences.
    pub data: Option<Vec<String>>,
    /// Modes.
    pub modes: Option<Vec<String>>,
    /// Backends.
    pub backends: Option<Vec<String>>,
    /// Devices.
    pub devices: Option<Vec<String>>,
    /// Precisions.
    pub precisions: Option<Vec<String>>,
    /// Labels of conditions: `full`, `bp=10000`, `tok=512`, `bin~5000`.
    pub conditions: Option<Vec<String>>,
    /// Sequences a call.
    pub batch_sizes: Option<Vec<usize>>,
    /// Seeds.
    pub seeds: Option<Vec<u64>>,
}

/// Options of `sbatch`, as they are typed there, and what runs before a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlurmOptions {
    /// Options for every job.
    pub sbatch: Vec<String>,
    /// Lines of shell before each task: modules, environments.
    pub preamble: String,
    /// Words before the program, such as `apptainer exec image.sif`.
    pub launcher: String,
    /// Tasks that run at once at most.
    pub throttle: Option<usize>,
    /// Whether Slurm starts a task again that a node's failure ended.
    pub requeue: Option<bool>,
    /// Options for some cells.
    pub group: Vec<GroupOptions>,
    /// Options of the job that merges and analyses.
    pub collect: CollectOptions,
}

/// Options for the cells that agree with `when`; the first group that fits counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupOptions {
    /// Which cells, by wildcards; all without it.
    pub when: Axes,
    /// Options, which prevail over those for every job.
    pub sbatch: Vec<String>,
    /// Lines of shell after the common ones.
    pub preamble: String,
}

/// Options of the job that merges and analyses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectOptions {
    /// Options, which prevail over those for every job.
    pub sbatch: Vec<String>,
}

impl SweepPlan {
    /// Reads a plan.
    ///
    /// # Errors
    /// [`PlanError`], with the place and, for a key that a plan does not have, the one that may have been meant.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let text = bounded::read_text(path, bounded::DESCRIPTION).map_err(|source| PlanError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let mut plan = Self::parse(&text, path)?;
        if plan.name.is_empty() {
            plan.name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
        }
        Ok(plan)
    }

    /// Reads a plan from `text`; `path` is for messages.
    ///
    /// # Errors
    /// [`PlanError::Toml`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, PlanError> {
        toml::from_str(text).map_err(|error| PlanError::Toml {
            path: path.to_path_buf(),
            suggestion: suggestion(error.message()),
            message: error.to_string().trim_end().to_owned(),
        })
    }

    /// Replaces aliases of modes by the names that tables show; what `canonical` does not know stays, be it a pattern.
    #[must_use]
    pub fn with_modes(mut self, canonical: impl Fn(&str) -> Option<String>) -> Self {
        let groups = self.slurm.group.iter_mut().map(|group| &mut group.when);
        let all = [&mut self.matrix]
            .into_iter()
            .chain(&mut self.include)
            .chain(&mut self.exclude)
            .chain(groups);
        for mode in all.filter_map(|axes| axes.modes.as_mut()).flatten() {
            if let Some(name) = canonical(mode) {
                *mode = name;
            }
        }
        self
    }
}

/// `; did you mean …?` for serde's message about an unknown field, which lists the known ones.
fn suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown field"));
    unknown
        .and_then(|unknown| nearest(unknown, quoted))
        .map_or_else(String::new, |name| format!("\ndid you mean `{name}`?"))
}

/// The one of `names` that is most similar to `word`, if any is.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SweepPlan, PlanError> {
        SweepPlan::parse(text, Path::new("plan.toml"))
    }

    #[test]
    fn a_key_that_is_not_known_is_an_error_with_a_suggestion() {
        let message = parse("[matrix]\nmodes = [\"8bit\"]\nbatch_size = [1]\n")
            .unwrap_err()
            .to_string();
        for words in ["plan.toml", "line 3", "batch_size", "did you mean `batch_sizes`?"] {
            assert!(message.contains(words), "{message}");
        }
        let message = parse("[slurm]\nzzz = 1\n").unwrap_err().to_string();
        assert!(!message.contains("did you mean"), "{message}");
    }

    #[test]
    fn every_part_is_read() {
        let plan = parse(
            "name = 'x'\n[matrix]\nmodels = ['a']\nseeds = [1, 2]\n[[include]]\nmodels = ['b']\n[[exclude]]\nmodes = \
             ['8*']\n[run]\nnum-repeats = 1\n[slurm]\nsbatch = ['--time=10']\nthrottle = 4\n[[slurm.group]]\nwhen = \
             { devices = ['cuda*'] }\nsbatch = ['--gpus=1']\n[slurm.collect]\nsbatch = ['--mem=2G']\n",
        )
        .unwrap();
        assert_eq!(plan.matrix.seeds, Some(vec![1, 2]));
        assert_eq!(plan.include[0].models.as_deref(), Some(&["b".to_owned()][..]));
        assert_eq!(plan.slurm.group[0].sbatch, ["--gpus=1"]);
        assert_eq!(plan.slurm.collect.sbatch, ["--mem=2G"]);
        assert_eq!(plan.run["num-repeats"].as_integer(), Some(1));
    }

    #[test]
    fn aliases_of_modes_become_names_everywhere() {
        let plan = parse("[matrix]\nmodes = ['nf4']\n[[exclude]]\nmodes = ['nf4', '*_double']\n").unwrap();
        let plan = plan.with_modes(|mode| (mode == "nf4").then(|| "4bit_nf4".to_owned()));
        assert_eq!(plan.matrix.modes.unwrap(), ["4bit_nf4"]);
        assert_eq!(
            plan.exclude[0].modes.as_deref().unwrap(),
            ["4bit_nf4", "*_double"]
        );
    }
}
