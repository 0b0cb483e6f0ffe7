//! What a worker is told and what it answers.

use std::{num::NonZeroUsize, path::PathBuf};

use qbench_core::{
    data::{DataError, Dataset},
    invariants::Violation,
    measure::sampling::SamplingSettings,
    quality::ReferenceLabel,
    results::{Evaluation, LayerExecution, Performance, Quality, WeightMemory},
    workload::WorkloadKind,
};
use qbench_sdk::DType;
use serde::{Deserialize, Serialize};

use crate::plugins::{BackendChoice, SchemeChoice};

/// A cell to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellJob {
    /// The model as `--model` names it.
    pub model: String,
    /// The hub's revision of it.
    pub commit: String,
    pub seed: u64,
    pub data: DataSource,
    /// Label of the condition.
    pub condition: String,
    /// All bins of the run.
    pub bins: Vec<usize>,
    pub samples_per_condition: usize,
    /// The user's limit of tokens a sequence.
    pub max_tokens: Option<usize>,
    pub scheme: SchemeChoice,
    pub backend: BackendChoice,
    pub device: String,
    pub compute: DType,
    pub threads: usize,
    pub skip: Vec<String>,
    pub only: Vec<String>,
    pub task: Task,
}

/// The sequences of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSource {
    pub path: PathBuf,
    /// Fragments a genome; all when `None`.
    pub per_genome: Option<usize>,
}

impl DataSource {
    /// The sequences, read from the file.
    ///
    /// # Errors
    /// The file's.
    pub fn read(&self) -> Result<Dataset, DataError> {
        let dataset = Dataset::read(&self.path)?;
        Ok(match self.per_genome {
            Some(count) => dataset.subset_per_genome(count),
            None => dataset,
        })
    }
}

/// What the worker does with the loaded model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Time batches.
    Performance {
        workload: WorkloadKind,
        batch_size: NonZeroUsize,
        sampling: SamplingSettings,
        max_batches: Option<usize>,
    },
    /// Write the outputs that modes are compared with.
    Reference(QualityTask),
    /// Compare the outputs with those.
    Quality(QualityTask),
    /// Compare the hidden states over so many sequences with those of `reference` in f32, which runs beside.
    Layers { reference: SchemeChoice, samples: usize },
    /// Write what the model says to a biological question into `directory`.
    BiologyReference { question: Question, directory: PathBuf },
    /// Compare what the model says with what lies in `directory`.
    Biology { question: Question, directory: PathBuf },
}

/// What a model is asked about biology.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Both strands of the first bases of each fragment.
    ReverseComplement { window_bases: usize },
    /// All substitutions at some positions, in windows around them.
    Variants { window_bases: usize, positions: usize },
    /// Which fragments belong together.
    Binning,
}

/// How quality is evaluated: the same for the reference and all modes of a condition, but for the noise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QualityTask {
    /// Where the reference's outputs lie.
    pub directory: PathBuf,
    /// Where values go that are too many for memory.
    pub scratch: PathBuf,
    /// What they are of.
    pub label: ReferenceLabel,
    /// The reference in words.
    pub reference: String,
    /// Type in which the reference is computed.
    pub reference_precision: DType,
    /// Sequences a call.
    pub batch_size: NonZeroUsize,
    /// Windows of the sliding perplexity, where it is asked for.
    pub windows: Option<SlidingWindows>,
    /// Perturb the weights by up to half a step of bf16.
    pub bf16_noise: bool,
}

/// Windows over a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlidingWindows {
    /// Tokens a window.
    pub context_len: usize,
    /// Tokens from one window's start to the next.
    pub stride: usize,
}

/// What a worker found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CellOutcome {
    pub execution: Vec<LayerExecution>,
    pub warnings: Vec<String>,
    /// What must hold and did not: the cell is invalid.
    pub violations: Vec<Violation>,
    /// Every weight of the model, in performance, quality and sensitivity cells.
    pub weights: Vec<WeightMemory>,
    pub performance: Option<Performance>,
    pub quality: Option<Quality>,
    pub evaluation: Option<Evaluation>,
}
