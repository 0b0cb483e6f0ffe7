//! How long a sweep may take and how much memory, before anything has run: from the sizes of models and sequences, at
//! assumed speeds. It is meant for choosing time limits, and errs towards too long.

use std::collections::HashMap;

use anyhow::Result;
use qbench_core::{
    checkpoint::{Dimensions, ModelSource},
    data::Dataset,
    measure::flops::{AttentionPairs, DecoderShape, OutputHead, flops_per_sequence_exact},
    results::{Cell, CellKind},
    workload::Condition,
};
use qbench_sdk::DType;

use super::Draft;
use crate::{failure::usage, run::Plan, worker::DataSource};

/// Operations a second of one thread, and of a GPU.
const THREAD_FLOPS: f64 = 20e9;
const GPU_FLOPS: f64 = 50e12;
/// Bytes a second at which weights are read, and at which they are quantised.
const BYTES_PER_SECOND: f64 = 0.5e9;
/// Seconds to start a process.
const START: f64 = 1.0;
/// Bases that a token stands for, about; a model of single bases has more tokens.
const BASES_PER_TOKEN: f64 = 4.9;
/// What is held beside weights, activations and logits.
const MEMORY_MARGIN: f64 = 1.25;

/// What a sweep may need.
#[derive(Clone, Copy, Debug, Default)]
pub struct SweepEstimate {
    /// Seconds of all tasks one after the other.
    pub seconds: f64,
    /// Seconds of the longest task.
    pub longest_task_seconds: f64,
    /// Bytes of the largest cell.
    pub bytes: f64,
}

impl SweepEstimate {
    /// What the estimate is made from, in words.
    pub fn basis() -> String {
        format!(
            "from the sizes of models and sequences, at {} GFLOP/s a thread or {} TFLOP/s a GPU, {} GB/s to load and \
             to quantise, and {BASES_PER_TOKEN} bases a token, none of which was measured here",
            THREAD_FLOPS / 1e9,
            GPU_FLOPS / 1e12,
            BYTES_PER_SECOND / 1e9
        )
    }
}

/// What is looked up once a model and data set.
#[derive(Default)]
struct Known {
    models: HashMap<String, (Dimensions, f64)>,
    lengths: HashMap<String, Vec<usize>>,
}

/// Estimates a sweep.
///
/// # Errors
/// A model or data that cannot be read.
pub fn estimate(draft: &Draft) -> Result<SweepEstimate> {
    let mut known = Known::default();
    let sizes: Vec<Sizes> = draft
        .plans
        .iter()
        .map(|plan| known.sizes(plan))
        .collect::<Result<_>>()?;
    let mut total = SweepEstimate::default();
    for task in &draft.tasks {
        let (plan, sizes) = (&draft.plans[task.configuration], &sizes[task.configuration]);
        let mut seconds = sizes.reference_seconds(plan, &task.cells);
        for cell in &task.cells {
            seconds += sizes.seconds(plan, cell);
            total.bytes = total.bytes.max(sizes.bytes(plan, cell));
        }
        total.seconds += seconds;
        total.longest_task_seconds = total.longest_task_seconds.max(seconds);
    }
    Ok(total)
}

impl Known {
    fn sizes(&mut self, plan: &Plan) -> Result<Sizes> {
        let configuration = &plan.configuration;
        if !self.models.contains_key(&configuration.model) {
            let source = ModelSource::resolve(&configuration.model).map_err(usage)?;
            let checkpoint = source.open(configuration.seed).map_err(usage)?;
            let parameters: usize = checkpoint
                .entries()
                .map(|(_, entry)| entry.shape.iter().product::<usize>())
                .sum();
            let dimensions = checkpoint.dimensions().map_err(usage)?;
            self.models
                .insert(configuration.model.clone(), (dimensions, parameters as f64));
        }
        let DataSource { path, per_genome } = &configuration.data;
        let key = format!("{} {per_genome:?}", path.display());
        if !self.lengths.contains_key(&key) {
            let dataset: Dataset = configuration.data.read().map_err(usage)?;
            let lengths = dataset.sequences.iter().map(|sequence| sequence.bases.len());
            self.lengths.insert(key.clone(), lengths.collect());
        }
        let (dimensions, parameters) = self.models[&configuration.model];
        Ok(Sizes::new(plan, &dimensions, parameters, &self.lengths[&key]))
    }
}

/// The sizes of a run.
struct Sizes {
    parameters: f64,
    shape: DecoderShape,
    /// Seconds of a pass over the sequences, without logits and with, and the longest sequence in tokens, by condition.
    passes: HashMap<String, (f64, f64, f64)>,
}

impl Sizes {
    fn new(plan: &Plan, dimensions: &Dimensions, parameters: f64, lengths: &[usize]) -> Self {
        let configuration = &plan.configuration;
        let shape = DecoderShape {
            layers: dimensions.layers,
            hidden: dimensions.hidden,
            intermediate: dimensions.intermediate,
            heads: dimensions.heads,
            kv_heads: dimensions.kv_heads,
            head_dim: dimensions.head_dim,
            vocabulary: dimensions.vocabulary,
        };
        let rate = if configuration.device.id.starts_with("cpu") {
            THREAD_FLOPS * configuration.threads as f64
        } else {
            GPU_FLOPS
        };
        let limit = configuration
            .max_tokens
            .or(dimensions.max_positions)
            .unwrap_or(usize::MAX);
        let of_condition = |label: &String| {
            let condition = label.parse::<Condition>().unwrap_or(Condition::Full);
            let tokens = |&bases: &usize| {
                let bases = match condition {
                    Condition::TruncateBp(most) => bases.min(most),
                    _ => bases,
                };
                let tokens = (bases as f64 / BASES_PER_TOKEN) as usize + 2;
                match condition {
                    Condition::TruncateTokens(most) => tokens.min(most),
                    _ => tokens,
                }
                .min(limit)
            };
            let taken = lengths.iter().take(configuration.samples_per_condition);
            let (mut plain, mut logits, mut longest) = (0.0, 0.0, 0);
            for tokens in taken.map(tokens) {
                let flops =
                    |head| flops_per_sequence_exact(&shape, tokens, AttentionPairs::Causal, head) / rate;
                plain += flops(OutputHead::None);
                logits += flops(OutputHead::EveryPosition);
                longest = longest.max(tokens);
            }
            (plan.condition_label(label), (plain, logits, longest as f64))
        };
        Self {
            parameters,
            shape,
            passes: plan.conditions.iter().map(of_condition).collect(),
        }
    }

    fn pass(&self, cell: &Cell) -> (f64, f64, f64) {
        self.passes.get(&cell.condition).copied().unwrap_or_default()
    }

    /// Seconds to start a process, to load the model in f32 and to quantise it.
    fn start(&self) -> f64 {
        START + 2.0 * self.parameters * 4.0 / BYTES_PER_SECOND
    }

    fn seconds(&self, plan: &Plan, cell: &Cell) -> f64 {
        let configuration = &plan.configuration;
        let (plain, logits, _) = self.pass(cell);
        self.start()
            + match cell.kind {
                CellKind::Performance => {
                    let budget = configuration.sampling.time_budget_seconds;
                    // Warm-up, timing, and the passes after it that look for leaks.
                    0.2 * budget + budget.max(plain) + 2.0 * plain
                }
                CellKind::Quality | CellKind::Sensitivity if configuration.synthetic => 0.0,
                CellKind::Layers => {
                    let share = configuration.layer_sequences as f64 / configuration.sequences.max(1) as f64;
                    2.0 * plain * share.min(1.0)
                }
                CellKind::Quality
                | CellKind::Sensitivity
                | CellKind::ReverseComplement
                | CellKind::Binning => 2.0 * logits,
                CellKind::Variants => 4.0 * configuration.variant_positions as f64 * logits,
            }
    }

    /// Seconds for the references that a task needs.
    fn reference_seconds(&self, plan: &Plan, cells: &[Cell]) -> f64 {
        let mut groups: Vec<(&str, CellKind)> = cells
            .iter()
            .filter(|cell| !matches!(cell.kind, CellKind::Performance | CellKind::Layers))
            .map(|cell| (cell.condition.as_str(), cell.kind))
            .collect();
        groups.dedup();
        if plan.configuration.synthetic || plan.kept_reference.is_some() {
            return 0.0;
        }
        let condition = |name: &str| self.passes.get(name).map_or(0.0, |(_, logits, _)| *logits);
        groups
            .into_iter()
            .map(|(name, _)| self.start() + 2.0 * condition(name))
            .sum()
    }

    fn bytes(&self, plan: &Plan, cell: &Cell) -> f64 {
        let (_, _, longest) = self.pass(cell);
        let precision = match plan.configuration.precision {
            DType::F32 => 4.0,
            _ => 2.0,
        };
        let shape = &self.shape;
        let wide = (6 * shape.hidden + 3 * shape.intermediate) as f64;
        let tokens = longest * cell.batch_size as f64;
        let (weights, logits) = match cell.kind {
            CellKind::Performance => (self.parameters * precision, 0.0),
            // Hidden states are compared with a second model beside.
            CellKind::Layers => (self.parameters * (4.0 + precision), 0.0),
            _ => (
                self.parameters * 4.0,
                3.0 * tokens * shape.vocabulary as f64 * 4.0,
            ),
        };
        MEMORY_MARGIN * (weights + tokens * wide * 4.0 + logits)
    }
}
