//! From a plan to the tasks of a sweep.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use qbench_core::{
    results::{Cell, CellKind},
    sweep::{Configuration, Coordinates, GroupOptions, Rule, SweepPlan, pack},
};

use sha2::{Digest, Sha256};

use super::{
    ExecutorKind, Sweep, SweepDirectory, TaskLine,
    directory::{ConfigurationFile, SCHEMA},
    options,
};
use crate::{
    cli::RunArgs,
    failure::usage,
    hash::sha256_of_file,
    plugins::{Registry, check_options},
    run::{Devices, Plan, Schedule, all_cores},
};

/// Threads of a task on a cluster, unless the plan says otherwise.
const CLUSTER_THREADS: usize = 2;
/// Stands for the directory of references in schedules that only tell cells.
const NO_DIRECTORY: &str = "reference";

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

/// A cell on its way into a task.
struct Place {
    cell: Cell,
    /// Cells with the same key run one after the other on one machine.
    unit: (CellKind, String, usize, usize),
    group: usize,
}

/// The plan's rules, with how many cells each was about.
struct Rules {
    exclude: Vec<(Rule, usize)>,
    groups: Vec<(Rule, usize)>,
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
            text: fs::read_to_string(path)?,
        };
        let mut resolver = Resolver::new(&registry, options.executor);
        let mut seen = HashSet::new();
        for run in &runs {
            let arguments = options::arguments(run, &shared, threads);
            let mut resolved = resolver.resolve(&arguments)?;
            let data = several_data.then(|| format!("data={}", data_label(&resolved)));
            let seed = several_seeds.then(|| format!("seed={}", run.seed));
            resolved.configuration.variant = data.into_iter().chain(seed).collect::<Vec<_>>().join(", ");
            let places = places(run, &resolved, &mut rules, &mut seen);
            draft.sweep.threads = resolved.configuration.threads;
            draft.add(arguments, resolved, places, options.cells_per_task)?;
        }
        check_labels(&draft.plans)?;
        draft.finish(&plan, &rules, options.cells_per_task)?;
        Ok(draft)
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

    fn finish(&mut self, plan: &SweepPlan, rules: &Rules, size: Option<usize>) -> Result<()> {
        if self.tasks.is_empty() {
            return Err(usage(anyhow!("the plan has no cell: everything is excluded")));
        }
        (self.sweep.tasks, self.sweep.configurations) = (self.tasks.len(), self.configurations.len());
        let unused = |what: &str, rules: &[(Rule, usize)]| {
            rules
                .iter()
                .enumerate()
                .filter(|(_, (_, cells))| *cells == 0)
                .map(|(index, _)| format!("{what} {} is about no cell", index + 1))
                .collect::<Vec<_>>()
        };
        self.warnings.extend(unused("exclude", &rules.exclude));
        self.warnings
            .extend(unused("slurm.group", &rules.groups[..plan.slurm.group.len()]));
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

impl Rules {
    fn new(plan: &SweepPlan) -> Result<Self> {
        let rule = |axes, key: &str| Ok::<_, anyhow::Error>((Rule::new(axes, key).map_err(usage)?, 0));
        let exclude = plan
            .exclude
            .iter()
            .enumerate()
            .map(|(index, axes)| rule(axes, &format!("exclude {}", index + 1)));
        let groups = plan
            .slurm
            .group
            .iter()
            .enumerate()
            .map(|(index, group)| rule(&group.when, &format!("slurm.group {}.when", index + 1)));
        Ok(Self {
            exclude: exclude.collect::<Result<_>>()?,
            groups: groups.collect::<Result<_>>()?,
        })
    }

    fn excludes(&mut self, at: &Coordinates<'_>) -> bool {
        let mut excluded = false;
        for (rule, cells) in &mut self.exclude {
            if rule.matches(at) {
                *cells += 1;
                excluded = true;
            }
        }
        excluded
    }

    /// The first group that fits; the last one, which has no options of its own, where none does.
    fn group(&mut self, at: &Coordinates<'_>) -> usize {
        let place = self.groups.iter().position(|(rule, _)| rule.matches(at));
        if let Some(place) = place {
            self.groups[place].1 += 1;
        }
        place.unwrap_or(self.groups.len())
    }
}

/// Resolves command lines; those that differ by the seed alone are looked up once, where the seed does not make weights.
struct Resolver<'a> {
    registry: &'a Registry,
    devices: Devices,
    last: Option<(Vec<String>, Plan)>,
}

impl<'a> Resolver<'a> {
    fn new(registry: &'a Registry, executor: ExecutorKind) -> Self {
        Self {
            registry,
            devices: match executor {
                ExecutorKind::Local => Devices::Here,
                ExecutorKind::Slurm => Devices::Elsewhere,
            },
            last: None,
        }
    }

    fn resolve(&mut self, arguments: &[String]) -> Result<Plan> {
        let parsed = options::parse(arguments)?;
        let without_seed: Vec<String> = arguments
            .iter()
            .filter(|argument| !argument.starts_with("--seed="))
            .cloned()
            .collect();
        if let Some((known, plan)) = &self.last
            && *known == without_seed
            && !plan.configuration.synthetic
        {
            let mut plan = plan.clone();
            plan.configuration.seed = parsed.seed;
            return Ok(plan);
        }
        let plan = Plan::resolve(&parsed, self.registry, self.devices)?;
        for scheme in plan.modes.iter().filter(|scheme| !scheme.options.is_empty()) {
            check_options(scheme)?;
        }
        self.last = Some((without_seed, plan.clone()));
        Ok(plan)
    }
}

/// The plugins that the shared options lead to.
fn registry(shared: &[String]) -> Result<Registry> {
    let arguments: Vec<String> = ["qbench", "run"]
        .map(str::to_owned)
        .into_iter()
        .chain(shared.iter().cloned())
        .collect();
    let arguments: RunArgs = options::parse(&arguments)?;
    Registry::discover(&arguments.plugin_dirs.search(Vec::new()), true)
}

/// The cells of a run that are wanted and that no other run has.
fn places(run: &Configuration, plan: &Plan, rules: &mut Rules, seen: &mut HashSet<Cell>) -> Vec<Place> {
    let configuration = &plan.configuration;
    let data = configuration.data.path.to_string_lossy();
    let model = run.model.as_deref().unwrap_or(&configuration.model);
    let mut places = Vec::new();
    for cell in Schedule::new(plan, Path::new(NO_DIRECTORY)).cells() {
        let condition = cell.condition.split(", ").next().unwrap_or_default();
        // What a mode has beside it to show how far chance goes belongs to it.
        let mode = cell.mode.split('~').next().unwrap_or_default();
        let performance = cell.kind == CellKind::Performance;
        let batch_size = performance.then_some(cell.batch_size);
        let at = Coordinates {
            model,
            model_label: &configuration.model_label,
            data: run.data.as_deref().unwrap_or(&data),
            mode,
            backend: &configuration.backend.info.id,
            device: &configuration.device.id,
            precision: crate::cli::precision_name(configuration.precision),
            condition,
            batch_size,
            seed: configuration.seed,
        };
        if !run.contains(mode, condition, batch_size) || rules.excludes(&at) || !seen.insert(cell.clone()) {
            continue;
        }
        // Quality and sensitivity share a reference.
        let kind = match cell.kind {
            CellKind::Sensitivity => CellKind::Quality,
            kind => kind,
        };
        places.push(Place {
            group: rules.group(&at),
            unit: (
                kind,
                condition.to_owned(),
                batch_size.unwrap_or_default(),
                cell.repeat,
            ),
            cell: cell.clone(),
        });
    }
    places
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
