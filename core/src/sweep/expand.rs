//! From a plan to the runs that it is made of.

use super::{PlanError, SweepPlan};
use crate::workload::Condition;

/// Modes of a plan that names none.
const MODES: [&str; 5] = ["standard", "8bit", "4bit_nf4", "4bit_fp4", "4bit_nf4_double"];
const BACKEND: &str = "cpu";
const BATCH_SIZE: usize = 4;
const SEED: u64 = 42;

/// Most cells of a plan. All of them are held in memory while a plan is made, half a kilobyte each.
pub const MOST_CELLS: usize = 10_000_000;

/// What one `qbench run` does: all that its cells share, and the products of modes, conditions and batch sizes that
/// are measured. `None` stands for the default of `qbench run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The model.
    pub model: Option<String>,
    /// The file of sequences.
    pub data: Option<String>,
    /// The backend.
    pub backend: String,
    /// The device.
    pub device: Option<String>,
    /// The precision.
    pub precision: Option<String>,
    /// The seed.
    pub seed: u64,
    /// One of the matrix and one of every inclusion that has to do with this configuration.
    pub blocks: Vec<Block>,
}

/// A product within a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Modes.
    pub modes: Vec<String>,
    /// Conditions, all of one kind.
    pub conditions: Vec<Condition>,
    /// Sequences a call.
    pub batch_sizes: Vec<usize>,
}

impl Configuration {
    /// The modes of all blocks.
    pub fn modes(&self) -> Vec<&str> {
        unique(
            self.blocks
                .iter()
                .flat_map(|block| &block.modes)
                .map(String::as_str),
        )
    }

    /// The conditions of all blocks.
    pub fn conditions(&self) -> Vec<Condition> {
        unique(self.blocks.iter().flat_map(|block| &block.conditions).copied())
    }

    /// The batch sizes of all blocks.
    pub fn batch_sizes(&self) -> Vec<usize> {
        unique(self.blocks.iter().flat_map(|block| &block.batch_sizes).copied())
    }

    /// Whether a cell is in one of the blocks; one without a batch size, where mode and condition are. The mode
    /// `standard`, which the others are compared with, counts as named.
    pub fn contains(&self, mode: &str, condition: &str, batch_size: Option<usize>) -> bool {
        self.blocks.iter().any(|block| {
            (mode == MODES[0] || block.modes.iter().any(|name| name == mode))
                && block
                    .conditions
                    .iter()
                    .any(|known| known.to_string() == condition)
                && batch_size.is_none_or(|size| block.batch_sizes.contains(&size))
        })
    }

    fn shares(&self, other: &Self) -> bool {
        let conditions = |configuration: &Self| configuration.blocks[0].conditions[0];
        self.model == other.model
            && self.data == other.data
            && self.backend == other.backend
            && self.device == other.device
            && self.precision == other.precision
            && self.seed == other.seed
            && kind(conditions(self)) == kind(conditions(other))
    }
}

impl SweepPlan {
    /// The runs of the plan, in the order of its lists; exclusions are not applied yet.
    ///
    /// # Errors
    /// [`PlanError::Value`] for an empty list, a condition that is none, or lists whose product is beyond
    /// [`MOST_CELLS`].
    pub fn configurations(&self) -> Result<Vec<Configuration>, PlanError> {
        let mut all: Vec<Configuration> = Vec::new();
        let mut combinations = 0_usize;
        let products = [("matrix".to_owned(), &self.matrix)].into_iter().chain(
            self.include
                .iter()
                .enumerate()
                .map(|(index, axes)| (format!("include {}", index + 1), axes)),
        );
        for (key, axes) in products {
            let matrix = &self.matrix;
            let optional = |name: &str, own: Option<&[String]>, shared: Option<&[String]>| {
                let values = named(&key, name, own, shared)?;
                Ok::<_, PlanError>(
                    values.map_or_else(|| vec![None], |values| values.into_iter().map(Some).collect()),
                )
            };
            let models = optional("models", axes.models.as_deref(), matrix.models.as_deref())?;
            let data = optional("data", axes.data.as_deref(), matrix.data.as_deref())?;
            let devices = optional("devices", axes.devices.as_deref(), matrix.devices.as_deref())?;
            let precisions = optional(
                "precisions",
                axes.precisions.as_deref(),
                matrix.precisions.as_deref(),
            )?;
            let backends = named(
                &key,
                "backends",
                axes.backends.as_deref(),
                matrix.backends.as_deref(),
            )?
            .unwrap_or_else(|| vec![BACKEND.to_owned()]);
            let modes = named(&key, "modes", axes.modes.as_deref(), matrix.modes.as_deref())?
                .unwrap_or_else(|| MODES.map(str::to_owned).to_vec());
            let batch_sizes = named(
                &key,
                "batch_sizes",
                axes.batch_sizes.as_deref(),
                matrix.batch_sizes.as_deref(),
            )?
            .unwrap_or_else(|| vec![BATCH_SIZE]);
            let seeds = named(&key, "seeds", axes.seeds.as_deref(), matrix.seeds.as_deref())?
                .unwrap_or_else(|| vec![SEED]);
            let kinds = by_kind(&conditions(
                &key,
                named(
                    &key,
                    "conditions",
                    axes.conditions.as_deref(),
                    matrix.conditions.as_deref(),
                )?,
            )?);
            let lengths = [
                models.len(),
                data.len(),
                devices.len(),
                precisions.len(),
                backends.len(),
                modes.len(),
                batch_sizes.len(),
                seeds.len(),
                kinds.iter().map(Vec::len).sum(),
            ];
            combinations = combinations.saturating_add(lengths.into_iter().fold(1, usize::saturating_mul));
            if combinations > MOST_CELLS {
                return Err(PlanError::value(
                    key,
                    format!("its lists have more than {MOST_CELLS} combinations; split the plan"),
                ));
            }
            // The seed innermost: what differs by it alone stands together in tables.
            for model in &models {
                for data in &data {
                    for backend in &backends {
                        for device in &devices {
                            for precision in &precisions {
                                for conditions in &kinds {
                                    for &seed in &seeds {
                                        let configuration = Configuration {
                                            model: model.clone(),
                                            data: data.clone(),
                                            backend: backend.clone(),
                                            device: device.clone(),
                                            precision: precision.clone(),
                                            seed,
                                            blocks: vec![Block {
                                                modes: modes.clone(),
                                                conditions: conditions.clone(),
                                                batch_sizes: batch_sizes.clone(),
                                            }],
                                        };
                                        add(&mut all, configuration);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(all)
    }
}

/// Adds a configuration, or its blocks to the one that shares all else.
fn add(all: &mut Vec<Configuration>, configuration: Configuration) {
    match all.iter_mut().find(|known| known.shares(&configuration)) {
        Some(known) => known.blocks.extend(configuration.blocks),
        None => all.push(configuration),
    }
}

/// The values of an axis: its own, else the matrix'; each once.
fn named<T: Clone + PartialEq>(
    key: &str,
    name: &str,
    own: Option<&[T]>,
    matrix: Option<&[T]>,
) -> Result<Option<Vec<T>>, PlanError> {
    let values = own.or(matrix);
    if values.is_some_and(<[T]>::is_empty) {
        return Err(PlanError::value(
            format!("{key}.{name}"),
            "the list is empty; leave the key out for the default",
        ));
    }
    Ok(values.map(|values| unique(values.iter().cloned())))
}

fn conditions(key: &str, labels: Option<Vec<String>>) -> Result<Vec<Condition>, PlanError> {
    let Some(labels) = labels else {
        return Ok(vec![Condition::Full]);
    };
    let parse = |label: &String| {
        label
            .parse::<Condition>()
            .map_err(|error| PlanError::value(format!("{key}.conditions"), error.to_string()))
    };
    labels.iter().map(parse).collect()
}

/// A run takes conditions of one kind.
fn by_kind(conditions: &[Condition]) -> Vec<Vec<Condition>> {
    let mut kinds: Vec<Vec<Condition>> = Vec::new();
    for &condition in conditions {
        match kinds.iter_mut().find(|known| kind(known[0]) == kind(condition)) {
            Some(known) => known.push(condition),
            None => kinds.push(vec![condition]),
        }
    }
    kinds
}

fn kind(condition: Condition) -> std::mem::Discriminant<Condition> {
    std::mem::discriminant(&condition)
}

fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.fold(Vec::new(), |mut kept, value| {
        if !kept.contains(&value) {
            kept.push(value);
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn expand(text: &str) -> Result<Vec<Configuration>, PlanError> {
        SweepPlan::parse(text, Path::new("plan.toml"))
            .unwrap()
            .configurations()
    }

    #[test]
    fn an_empty_plan_is_the_default_run() {
        let all = expand("").unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].modes(), MODES);
        assert_eq!((all[0].batch_sizes(), all[0].seed), (vec![4], 42));
        assert_eq!(all[0].conditions(), [Condition::Full]);
    }

    #[test]
    fn a_matrix_is_a_product_and_conditions_of_another_kind_another_run() {
        let all = expand(
            "[matrix]\nmodels = ['a', 'b']\nprecisions = ['float32', 'bfloat16']\nseeds = [1, 2, 3]\nconditions = \
             ['tok=64', 'full', 'tok=128', 'tok=64']\n",
        )
        .unwrap();
        assert_eq!(all.len(), 2 * 2 * 3 * 2);
        assert_eq!(
            all[0].conditions(),
            [Condition::TruncateTokens(64), Condition::TruncateTokens(128)]
        );
        assert_eq!((all[1].seed, all[3].conditions()), (2, vec![Condition::Full]));
    }

    #[test]
    fn an_inclusion_adds_what_it_names_and_no_more() {
        let all = expand(
            "[matrix]\nmodels = ['a']\nmodes = ['8bit']\nbatch_sizes = [1, 4]\n[[include]]\nmodes = \
             ['4bit_nf4']\nbatch_sizes = [16]\n[[include]]\nmodels = ['b']\n",
        )
        .unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].blocks.len(), 2);
        let contains = |mode, size| all[0].contains(mode, "full", Some(size));
        assert!(contains("8bit", 1) && contains("8bit", 4) && contains("4bit_nf4", 16));
        assert!(!contains("8bit", 16) && !contains("4bit_nf4", 1));
        assert!(contains("standard", 16) && !contains("standard", 2));
        assert!(all[0].contains("4bit_nf4", "full", None) && !all[0].contains("4bit_nf4", "tok=5", None));
        assert_eq!(all[1].batch_sizes(), [1, 4]);
    }

    #[test]
    fn empty_lists_and_unknown_conditions_are_refused_by_name() {
        let message = |text| expand(text).unwrap_err().to_string();
        assert!(message("[matrix]\nmodes = []\n").starts_with("matrix.modes: the list is empty"));
        assert!(message("[[include]]\nconditions = ['tokens=5']\n").starts_with("include 1.conditions: "));
    }

    #[test]
    fn a_plan_that_no_memory_holds_is_refused() {
        let seeds: Vec<String> = (0..10_001).map(|seed| seed.to_string()).collect();
        let sizes: Vec<String> = (1..=1000).map(|size| size.to_string()).collect();
        let text = format!("[matrix]\nmodes = ['8bit']\nseeds = [{}]\n", seeds.join(","));
        assert_eq!(expand(&text).unwrap().len(), 10_001);
        let text = format!("{text}[[include]]\nbatch_sizes = [{}]\n", sizes.join(","));
        let message = expand(&text).unwrap_err().to_string();
        assert!(
            message.starts_with("include 1: its lists have more than 10000000 combinations"),
            "{message}"
        );
    }
}
