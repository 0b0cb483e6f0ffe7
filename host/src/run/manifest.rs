//! `manifest.json`: all that is needed to repeat a run.
//!
//! Written whole when the run starts and again when it ends, so that one that was killed leaves the first version. The
//! plan in it also tells whether the next run into the directory goes on from this one.

use std::{collections::BTreeMap, env, path::PathBuf};

use anyhow::Result;
use qbench_core::results::{Cell, Record};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Plan, Schedule};
use crate::{
    energy::nvml::{self, GpuFacts},
    hash::sha256_of_file,
    interrupt,
    machine::Machine,
};

/// Name of the manifest in a results directory.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Id of its format.
const SCHEMA: &str = "qbench.manifest/1";

/// Beginnings of environment variables that bear on measurements.
const VARIABLES: [&str; 16] = [
    "CUDA_",
    "NVIDIA_",
    "CUBLAS_",
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "OPENBLAS_",
    "RAYON_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "QBENCH_",
    "SLURM_",
    "HF_H",
];
/// Words in the names of variables that are nobody's business.
const SECRETS: [&str; 6] = ["TOKEN", "KEY", "SECRET", "PASSWORD", "JWT", "CREDENTIAL"];

/// A run, for repeating it.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    schema: &'static str,
    /// The invocation that is under way or was the last.
    #[serde(flatten)]
    invocation: Invocation,
    /// Invocations before it that left results here.
    earlier: Vec<Invocation>,
    environment: BTreeMap<String, String>,
    machine: Machine,
    gpu: Option<GpuFacts>,
    /// Why there is no GPU.
    gpu_reason: String,
    plan: Value,
    /// Performance cells in the order in which they run, then those of quality and of single layers.
    cells: Vec<Cell>,
    /// How each mode's weights were stored and run; filled at the end.
    weights: BTreeMap<String, Vec<ExecutedWeight>>,
    /// Number of cells by status; filled at the end.
    outcome: BTreeMap<String, usize>,
}

/// The program itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Program {
    version: String,
    /// The commit that it was built from; empty for a debug build, and for one outside a repository.
    commit: String,
    debug_build: bool,
    sha256: Option<String>,
}

impl Program {
    fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("QBENCH_COMMIT").unwrap_or_default().to_owned(),
            debug_build: cfg!(debug_assertions),
            sha256: env::current_exe()
                .ok()
                .and_then(|path| sha256_of_file(&path).ok()),
        }
    }
}

/// One start of the program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Invocation {
    program: Program,
    command: Vec<String>,
    working_directory: Option<PathBuf>,
    started: String,
    /// Empty while it is under way, and when it was killed.
    finished: String,
    stopped_by_signal: Option<u8>,
}

#[derive(Clone, Debug, Serialize)]
struct ExecutedWeight {
    name: String,
    layout: String,
    bits: f64,
    execution: String,
}

impl Manifest {
    /// The manifest of a run that starts now; `plan` as JSON, `previous` the manifest that lies in the directory.
    pub fn start(plan: &Plan, schedule: &Schedule, previous: Option<&Value>) -> Result<Self> {
        let device = &plan.configuration.device;
        let gpu = if device.id.starts_with("cuda") {
            nvml::facts(device)
        } else {
            Err(format!("the run is on device {}", device.id))
        };
        Ok(Self {
            schema: SCHEMA,
            invocation: Invocation {
                program: Program::this(),
                command: env::args_os()
                    .map(|argument| argument.to_string_lossy().into_owned())
                    .collect(),
                working_directory: env::current_dir().ok(),
                started: now(),
                ..Invocation::default()
            },
            earlier: previous.map(earlier).unwrap_or_default(),
            environment: environment(env::vars_os().map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })),
            machine: Machine::read(),
            gpu_reason: gpu.as_ref().err().cloned().unwrap_or_default(),
            gpu: gpu.ok(),
            plan: serde_json::to_value(plan)?,
            cells: schedule.cells().cloned().collect(),
            weights: BTreeMap::new(),
            outcome: BTreeMap::new(),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Value {
        &self.plan
    }

    /// Adds what is known when the run has ended.
    pub fn finish(&mut self, records: &[Record]) {
        self.invocation.finished = now();
        self.invocation.stopped_by_signal = interrupt::pending();
        self.outcome.clear();
        for record in records {
            let status = record.status.as_str().to_owned();
            *self.outcome.entry(status).or_default() += 1;
            let known = self.weights.contains_key(&record.cell.mode);
            if !known && !record.weights.is_empty() {
                let weights = record.weights.iter().map(|weight| ExecutedWeight {
                    name: weight.name.clone(),
                    layout: weight.layout.clone(),
                    bits: weight.held_bits(),
                    execution: weight.execution.clone(),
                });
                self.weights.insert(record.cell.mode.clone(), weights.collect());
            }
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// The invocations that a manifest tells of, the last one included.
fn earlier(previous: &Value) -> Vec<Invocation> {
    let read = |value: &Value| serde_json::from_value::<Invocation>(value.clone()).ok();
    let mut all: Vec<Invocation> = previous["earlier"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(read)
        .collect();
    all.extend(read(previous));
    all
}

fn environment(variables: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    variables
        .filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(start)))
        .filter(|(name, _)| !SECRETS.iter().any(|word| name.contains(word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_variables_that_matter_and_no_secrets() {
        let all = [
            ("CUDA_VISIBLE_DEVICES", "1"),
            ("OMP_NUM_THREADS", "4"),
            ("SLURM_JOB_ID", "7"),
            ("SLURM_JWT", "s"),
            ("HF_HOME", "/models"),
            ("HF_HUB_TOKEN", "s"),
            ("QBENCH_API_KEY", "s"),
            ("HOME", "/home"),
        ];
        let kept = environment(
            all.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let names: Vec<&str> = kept.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "CUDA_VISIBLE_DEVICES",
                "HF_HOME",
                "OMP_NUM_THREADS",
                "SLURM_JOB_ID"
            ]
        );
    }

    #[test]
    fn earlier_invocations_are_kept_in_order() {
        let previous = json!({
            "started": "2", "finished": "", "command": ["qbench", "run"],
            "earlier": [{"started": "1", "finished": "1", "command": []}],
        });
        let starts: Vec<String> = earlier(&previous).into_iter().map(|each| each.started).collect();
        assert_eq!(starts, ["1", "2"]);
    }
}
