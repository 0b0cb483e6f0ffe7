//! The cells that evaluate quality: tokens, parts one at a time, layers, biology.

use std::path::Path;

use qbench_core::results::{Cell, CellKind};
use qbench_sdk::DType;

use super::{
    Plan, PlannedCell, QualityGroup,
    plan::REFERENCE_MODE,
    quality_cell,
    reference::directory_name,
    schedule::{cell, job},
};
use crate::{
    cli::{Evaluate, precision_name},
    plugins::SchemeChoice,
    worker::{CellJob, QualityTask, Question, Task},
};

/// The cells that are compared with a reference on disk; `directory` is where references lie while they are needed.
pub(super) fn groups(plan: &Plan, directory: &Path) -> Vec<QualityGroup> {
    if plan.configuration.synthetic {
        return Vec::new();
    }
    let of_condition = |condition: &String| {
        let directory = directory.join(directory_name(condition));
        token_group(plan, condition, &directory)
            .into_iter()
            .chain(questions(plan).map(move |question| question_group(plan, condition, question, &directory)))
            .collect::<Vec<_>>()
    };
    plan.conditions.iter().flat_map(of_condition).collect()
}

/// The quality cells of a condition, then its sensitivity cells, which share their reference.
fn token_group(plan: &Plan, condition: &str, directory: &Path) -> Option<QualityGroup> {
    let quality = plan.quality_task(condition, directory);
    let task = Task::Quality(quality.clone());
    let mut modes = Vec::new();
    if plan.evaluates(Evaluate::Tokens) {
        modes.extend(plan.modes.iter().map(|scheme| PlannedCell {
            cell: quality_cell(plan, scheme, condition),
            job: job(plan, scheme, condition, task.clone()),
        }));
        modes.extend(noise_floor(plan, condition, &quality));
    }
    for scheme in plan.modes.iter().filter(|scheme| scheme.id != plan.reference.id) {
        modes.extend(plan.parts.iter().map(|part| PlannedCell {
            cell: Cell {
                part: part.name.clone(),
                ..cell(plan, CellKind::Sensitivity, scheme, condition, 1, 0)
            },
            job: CellJob {
                // The modules were chosen with the user's patterns.
                skip: Vec::new(),
                only: part.modules.clone(),
                ..job(plan, scheme, condition, task.clone())
            },
        }));
    }
    (!modes.is_empty()).then(|| QualityGroup {
        name: condition.to_owned(),
        directory: quality.directory.clone(),
        made: plan.kept_reference.is_some(),
        reference: CellJob {
            compute: plan.reference_dtype(),
            ..job(plan, &plan.reference, condition, Task::Reference(quality))
        },
        modes,
    })
}

/// What differs from the reference without any quantisation: the reference once more (A/A), and the f32 model with weights
/// off by up to half a step of bf16.
fn noise_floor(plan: &Plan, condition: &str, quality: &QualityTask) -> [PlannedCell; 2] {
    let planned = |suffix: &str, compute: DType, bf16_noise: bool| PlannedCell {
        cell: Cell {
            mode: format!("{REFERENCE_MODE}~{suffix}"),
            precision: precision_name(compute).to_owned(),
            ..quality_cell(plan, &plan.reference, condition)
        },
        job: CellJob {
            compute,
            ..job(
                plan,
                &plan.reference,
                condition,
                Task::Quality(QualityTask {
                    bf16_noise,
                    ..quality.clone()
                }),
            )
        },
    };
    [
        planned("aa", plan.reference_dtype(), false),
        planned("bf16noise", DType::F32, true),
    ]
}

/// What modes are asked about biology.
fn questions(plan: &Plan) -> impl Iterator<Item = (CellKind, Question)> {
    let configuration = &plan.configuration;
    let window_bases = configuration.window_bases;
    let all = [
        (
            Evaluate::ReverseComplement,
            CellKind::ReverseComplement,
            Question::ReverseComplement { window_bases },
        ),
        (
            Evaluate::Variants,
            CellKind::Variants,
            Question::Variants {
                window_bases,
                positions: configuration.variant_positions,
            },
        ),
        (Evaluate::Binning, CellKind::Binning, Question::Binning),
    ];
    all.into_iter()
        .filter(|(what, ..)| plan.evaluates(*what))
        .map(|(_, kind, question)| (kind, question))
}

fn question_group(
    plan: &Plan,
    condition: &str,
    (kind, question): (CellKind, Question),
    directory: &Path,
) -> QualityGroup {
    let directory = directory.join(kind.as_str().replace(' ', "_"));
    let planned = |scheme: &SchemeChoice| PlannedCell {
        cell: cell(plan, kind, scheme, condition, 1, 0),
        job: job(
            plan,
            scheme,
            condition,
            Task::Biology {
                question,
                directory: directory.clone(),
            },
        ),
    };
    let task = Task::BiologyReference {
        question,
        directory: directory.clone(),
    };
    QualityGroup {
        name: format!("{condition}, {}", kind.as_str()),
        reference: reference_job(plan, condition, task),
        modes: plan.modes.iter().map(planned).collect(),
        directory,
        made: false,
    }
}

fn reference_job(plan: &Plan, condition: &str, task: Task) -> CellJob {
    CellJob {
        compute: DType::F32,
        ..job(plan, &plan.reference, condition, task)
    }
}

/// The quality cells of a synthetic model.
pub(super) fn synthetic_cells(plan: &Plan) -> Vec<Cell> {
    if !plan.configuration.synthetic || !plan.evaluates(Evaluate::Tokens) {
        return Vec::new();
    }
    let of_mode = |scheme| {
        plan.conditions
            .iter()
            .map(move |condition| quality_cell(plan, scheme, condition))
    };
    plan.modes.iter().flat_map(of_mode).collect()
}

/// The cells about hidden states.
pub(super) fn layer_cells(plan: &Plan) -> Vec<PlannedCell> {
    if plan.configuration.synthetic || !plan.evaluates(Evaluate::Layers) {
        return Vec::new();
    }
    let task = Task::Layers {
        reference: plan.reference.clone(),
        samples: plan.configuration.layer_sequences,
    };
    let of_condition = |condition: &'_ String| {
        let planned = |scheme: &SchemeChoice| PlannedCell {
            cell: cell(plan, CellKind::Layers, scheme, condition, 1, 0),
            job: job(plan, scheme, condition, task.clone()),
        };
        plan.modes.iter().map(planned).collect::<Vec<_>>()
    };
    plan.conditions.iter().flat_map(of_condition).collect()
}
