//! From command lines to plans of runs.

use anyhow::Result;

use super::{ExecutorKind, options};
use crate::{
    cli::RunArgs,
    plugins::{Registry, check_options},
    run::{Devices, Plan},
};

/// Resolves command lines; those that differ by the seed alone are looked up once, where the seed does not make weights.
pub(super) struct Resolver<'a> {
    registry: &'a Registry,
    devices: Devices,
    last: Option<(Vec<String>, Plan)>,
}

impl<'a> Resolver<'a> {
    pub fn new(registry: &'a Registry, executor: ExecutorKind) -> Self {
        Self {
            registry,
            devices: match executor {
                ExecutorKind::Local => Devices::Here,
                ExecutorKind::Slurm => Devices::Elsewhere,
            },
            last: None,
        }
    }

    pub fn resolve(&mut self, arguments: &[String]) -> Result<Plan> {
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
pub(super) fn registry(shared: &[String]) -> Result<Registry> {
    let arguments: Vec<String> = ["qbench", "run"]
        .map(str::to_owned)
        .into_iter()
        .chain(shared.iter().cloned())
        .collect();
    let arguments: RunArgs = options::parse(&arguments)?;
    Registry::discover(&arguments.plugin_dirs.search(Vec::new()), true)
}
