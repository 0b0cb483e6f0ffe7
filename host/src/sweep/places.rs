//! Which cells of a run a plan wants, and where they belong.

use std::{collections::HashSet, path::Path};

use anyhow::Result;
use qbench_core::{
    results::{Cell, CellKind},
    sweep::{Configuration, Coordinates, Rule, SweepPlan},
};

use crate::{
    cli::precision_name,
    failure::usage,
    run::{Plan, Schedule},
};

/// Stands for the directory of references in schedules that only tell cells.
const NO_DIRECTORY: &str = "reference";

/// A cell on its way into a task.
pub(super) struct Place {
    pub cell: Cell,
    /// Cells with the same key run one after the other on one machine.
    pub unit: (CellKind, String, usize, usize),
    /// Into [`Sweep::groups`](super::Sweep::groups).
    pub group: usize,
}

/// The plan's rules, with how many cells each was about.
pub(super) struct Rules {
    exclude: Vec<(Rule, usize)>,
    groups: Vec<(Rule, usize)>,
}

impl Rules {
    pub fn new(plan: &SweepPlan) -> Result<Self> {
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

    /// A warning for every rule that was about no cell.
    pub fn idle(&self) -> Vec<String> {
        [("exclude", &self.exclude), ("slurm.group", &self.groups)]
            .into_iter()
            .flat_map(|(what, rules)| {
                let idle = rules.iter().enumerate().filter(|(_, (_, cells))| *cells == 0);
                idle.map(move |(index, _)| format!("{what} {} is about no cell", index + 1))
            })
            .collect()
    }
}

/// The cells of a run that are wanted and that no other run has.
pub(super) fn places(
    run: &Configuration,
    plan: &Plan,
    rules: &mut Rules,
    seen: &mut HashSet<Cell>,
) -> Vec<Place> {
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
            precision: precision_name(configuration.precision),
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
