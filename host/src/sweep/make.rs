//! From a plan to the tasks of a sweep.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use qbench_core::{
    bounded,
    results::Cell,
    sweep::{Configuration, GroupOptions, MOST_CELLS, SweepPlan, pack},
};
use sha2::{Digest, Sha256};

use super::{
    ExecutorKind, Sweep, SweepDirectory, TaskLine,
    directory::{ConfigurationFile, SCHEMA},
    options,
    places::{Place, Rules, places},
    resolver::{Resolver, registry},
};
use crate::{
    failure::usage,
    hash::sha256_of_file,
    run::{Plan, all_cores},
};

/// Threads of a task on a cluster, unless the plan says otherwise.
const CLUSTER_THREADS: usize = 2;

/// How a plan becomes tasks.
#[derive(Clone, Copy, Debug)]
pub struct DraftOptions {
    pub executor: ExecutorKind,
    /// Tasks at once, of the local executor.
    pub jobs: usize,
    pub cells_per_task: Option<usize>,
}

/// A sweep that is not written yet.
pub struct Draft {
    pub sweep: Sweep,
    pub configurations: Vec<ConfigurationFile>,
    pub plans: Vec<Plan>,
    pub tasks: Vec<TaskLine>,
    /// Doubts about the plan.
    pub warnings: Vec<String>,
    text: String,
}

impl Draft {
    /// Resolves the plan at `path`, with everything looked up and checked as `qbench run` does; nothing is written.
    ///
    /// # Errors
    /// Whatever the plan asks for that is not there or cannot be.
    pub fn resolve(path: &Path, options: DraftOptions) -> Result<Self> {
        let plan = SweepPlan::read(path).map_err(usage)?;
        let shared = options::shared_arguments(&plan)?;
        let registry = registry(&shared)?;
        let plan = plan.with_modes(|mode| registry.scheme(mode).ok().map(|scheme| scheme.mode));
        let mut rules = Rules::new(&plan)?;
        let threads = match options.executor {
            ExecutorKind::Local => (all_cores() / options.jobs).max(1),
            ExecutorKind::Slurm => CLUSTER_THREADS,
        };
        let runs = plan.configurations().map_err(usage)?;
        let (several_data, several_seeds) = (differ(&runs, |run| &run.data), differ(&runs, |run| &run.seed));
        let mut draft = Self {
            sweep: new_sweep(&plan, options.executor)?,
            configurations: Vec::new(),
            plans: Vec::new(),
            tasks: Vec::new(),
            warnings: Vec::new(),
            text: bounded::read_text(path, bounded::DESCRIPTION)?,
        };
        let mut resolver = Resolver::new(&registry, options.executor);
        let mut seen = HashSet::new();
        for run in &runs {
            let arguments = options::arguments(run, &shared, threads);
            let mut resolved = resolver.resolve(&arguments)?;
            let data = several_data.then(|| format!("data={}", data_label(&resolved)));
            let seed = several_seeds.then(|| format!("seed={}", run.seed));
            resolved.configuration.variant = data.into_iter().chain(seed).collect::<Vec<_>>().join(", ");
            draft.check_size(&resolved)?;
            let places = places(run, &resolved, &mut rules, &mut seen);
            draft.sweep.threads = resolved.configuration.threads;
            draft.add(arguments, resolved, places, options.cells_per_task)?;
        }
        check_labels(&draft.plans)?;
        draft.finish(&rules, options.cells_per_task)?;
        Ok(draft)
    }

    /// Refuses what no memory holds, before it is held.
    fn check_size(&self, plan: &Plan) -> Result<()> {
        let lists = [
            plan.modes.len(),
            plan.conditions.len(),
            plan.batch_sizes.len(),
            plan.repeats,
        ];
        let cells = lists.into_iter().fold(1, usize::saturating_mul);
        if self.sweep.cells.saturating_add(cells) > MOST_CELLS {
            return Err(usage(anyhow!(
                "the plan has more than {MOST_CELLS} cells, with {} repeats of each (run.num-repeats); split it",
                plan.repeats
            )));
        }
        Ok(())
    }

    fn add(
        &mut self,
        arguments: Vec<String>,
        plan: Plan,
        places: Vec<Place>,
        size: Option<usize>,
    ) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let configuration = self.configurations.len();
        let mut units: BTreeMap<usize, Vec<Vec<Cell>>> = BTreeMap::new();
        let mut place_of = HashMap::new();
        for Place { cell, unit, group } in places {
            let of_group = units.entry(group).or_default();
            let place = *place_of.entry((group, unit)).or_insert(of_group.len());
            if place == of_group.len() {
                of_group.push(Vec::new());
            }
            of_group[place].push(cell);
        }
        for (group, units) in units {
            for cells in pack(units, size) {
                self.sweep.cells += cells.len();
                self.tasks.push(TaskLine {
                    task: self.tasks.len(),
                    configuration,
                    group,
                    cells,
                });
            }
        }
        self.configurations.push(ConfigurationFile {
            arguments,
            variant: plan.configuration.variant.clone(),
            plan: serde_json::to_value(&plan)?,
        });
        self.plans.push(plan);
        Ok(())
    }

    fn finish(&mut self, rules: &Rules, size: Option<usize>) -> Result<()> {
        if self.tasks.is_empty() {
            return Err(usage(anyhow!("the plan has no cell: everything is excluded")));
        }
        (self.sweep.tasks, self.sweep.configurations) = (self.tasks.len(), self.configurations.len());
        self.warnings.extend(rules.idle());
        if let Some(size) = size {
            let modes = self
                .plans
                .iter()
                .map(|plan| plan.modes.len())
                .max()
                .unwrap_or_default();
            if size < modes {
                self.warnings.push(format!(
                    "with {size} cell(s) a task, the {modes} modes of a repeat run in several tasks, perhaps on \
                     different nodes: compare their times with care"
                ));
            }
        }
        Ok(())
    }

    /// Writes the sweep into `path`.
    ///
    /// # Errors
    /// Those of [`SweepDirectory::create`].
    pub fn write(&self, path: &Path) -> Result<SweepDirectory> {
        let directory = SweepDirectory::create(path)?;
        directory
            .write(&self.sweep, &self.text, &self.configurations, &self.tasks)
            .with_context(|| format!("cannot write a sweep into {}", path.display()))
            .map_err(usage)?;
        Ok(directory)
    }
}

fn data_label(plan: &Plan) -> String {
    let path = &plan.configuration.data.path;
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn differ<T: PartialEq>(runs: &[Configuration], value: impl Fn(&Configuration) -> &T) -> bool {
    runs.iter().any(|run| value(run) != value(&runs[0]))
}

/// Tables name models and data by short labels, which must tell them apart.
fn check_labels(plans: &[Plan]) -> Result<()> {
    let mut models: HashMap<&str, &str> = HashMap::new();
    let mut data: HashMap<String, &PathBuf> = HashMap::new();
    for plan in plans {
        let configuration = &plan.configuration;
        let model = models
            .entry(&configuration.model_label)
            .or_insert(&configuration.model);
        if *model != configuration.model {
            return Err(usage(anyhow!(
                "{model} and {} would both be called `{}` in tables: give their directories different names",
                configuration.model,
                configuration.model_label
            )));
        }
        let path = data.entry(data_label(plan)).or_insert(&configuration.data.path);
        if **path != configuration.data.path {
            return Err(usage(anyhow!(
                "{} and {} would both be called `{}` in tables: give them different names",
                path.display(),
                configuration.data.path.display(),
                data_label(plan)
            )));
        }
    }
    Ok(())
}

/// Eight hexadecimal digits that no other sweep has.
fn new_id() -> String {
    let text = format!(
        "{:?} {} {}",
        std::time::SystemTime::now(),
        std::process::id(),
        rustix::system::uname().nodename().to_string_lossy()
    );
    let digest = Sha256::digest(text.as_bytes());
    let number = digest[..4]
        .iter()
        .fold(0, |number, &byte| number << 8 | u32::from(byte));
    format!("{number:08x}")
}

fn new_sweep(plan: &SweepPlan, executor: ExecutorKind) -> Result<Sweep> {
    let program = env::current_exe()?.canonicalize()?;
    let mut groups = plan.slurm.group.clone();
    groups.push(GroupOptions::default());
    Ok(Sweep {
        schema: SCHEMA.to_owned(),
        id: new_id(),
        name: plan.name.clone(),
        created: jiff::Timestamp::now().to_string(),
        program_sha256: sha256_of_file(&program)?,
        program,
        working_directory: env::current_dir()?,
        executor,
        slurm: plan.slurm.clone(),
        groups,
        configurations: 0,
        tasks: 0,
        cells: 0,
        threads: 0,
    })
}
