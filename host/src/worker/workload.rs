//! The sequences of a cell.

use std::path::Path;

use anyhow::{Result, bail};
use qbench_core::{
    checkpoint::{Checkpoint, Dimensions},
    data::Dataset,
    workload::{
        Condition, Padding, PaddingSide, Sampling, TokenisedSequence, Tokenizer, WindowTokenizer, Workload,
    },
};

use super::CellJob;
use crate::splitmix;

/// Sequences of random tokens, for a synthetic model without a tokenizer.
const RANDOM_SEQUENCES: usize = 32;
/// Their length, where the condition does not say.
const RANDOM_TOKENS: usize = 1024;

/// The tokenised sequences of a cell, and how they are padded.
pub(super) struct Prepared {
    pub workload: Workload,
    pub padding: Padding,
    /// Whether the tokens stand for bases; random ones do not.
    pub real: bool,
}

pub(super) fn prepare(job: &CellJob, checkpoint: &Checkpoint) -> Result<Prepared> {
    Ok(prepare_with_data(job, checkpoint)?.0)
}

/// The sequences of a cell as long as the condition leaves them, whatever the model's limit.
pub(super) fn prepare_whole(job: &CellJob, checkpoint: &Checkpoint) -> Result<Vec<TokenisedSequence>> {
    let condition: Condition = job.condition.parse()?;
    let directory = checkpoint.config_path().parent().unwrap_or(Path::new("."));
    let tokenizer = Tokenizer::from_directory(directory)?;
    let workload = Workload::prepare(
        &job.data.read()?,
        condition,
        &sampling(job),
        &tokenizer,
        usize::MAX,
    )?;
    Ok(workload.sequences)
}

fn sampling(job: &CellJob) -> Sampling {
    Sampling {
        bins: job.bins.clone(),
        samples_per_condition: job.samples_per_condition,
        seed: job.seed,
    }
}

/// The sequences of a cell with the data set that the sequences come from; random ones come from none.
pub(super) fn prepare_with_data(
    job: &CellJob,
    checkpoint: &Checkpoint,
) -> Result<(Prepared, Option<Dataset>)> {
    let dimensions = Dimensions::from_config(checkpoint.config_path(), checkpoint.config())?;
    let condition: Condition = job.condition.parse()?;
    let limit = token_limit(job, &dimensions)?;
    if checkpoint.is_synthetic() && checkpoint.tokenizer().is_none() {
        return Ok((random(job, condition, limit, &dimensions)?, None));
    }
    let directory = checkpoint.config_path().parent().unwrap_or(Path::new("."));
    let tokenizer = Tokenizer::from_directory(directory)?;
    let data = job.data.read()?;
    let workload = Workload::prepare(&data, condition, &sampling(job), &tokenizer, limit)?;
    check_vocabulary(&workload, dimensions.vocabulary, directory)?;
    let prepared = Prepared {
        workload,
        padding: padding(tokenizer.pad_id()),
        real: true,
    };
    Ok((prepared, Some(data)))
}

/// The tokenizer for windows of a model with one.
pub(super) fn window_tokenizer(job: &CellJob, checkpoint: &Checkpoint) -> Result<WindowTokenizer> {
    let dimensions = Dimensions::from_config(checkpoint.config_path(), checkpoint.config())?;
    let directory = checkpoint.config_path().parent().unwrap_or(Path::new("."));
    Ok(Tokenizer::from_directory(directory)?.windows(token_limit(job, &dimensions)?)?)
}

fn token_limit(job: &CellJob, dimensions: &Dimensions) -> Result<usize> {
    Ok(match (job.max_tokens, dimensions.max_positions) {
        (Some(asked), Some(model)) => asked.min(model),
        (Some(limit), None) | (None, Some(limit)) => limit,
        (None, None) => bail!(
            "config.json has no max_position_embeddings: say with --max-tokens how long a sequence may be"
        ),
    })
}

fn padding(id: u32) -> Padding {
    Padding {
        id,
        side: PaddingSide::Right,
    }
}

fn check_vocabulary(workload: &Workload, vocabulary: usize, directory: &Path) -> Result<()> {
    let largest = workload
        .sequences
        .iter()
        .flat_map(|sequence| &sequence.ids)
        .max()
        .copied()
        .unwrap_or(0);
    if largest as usize >= vocabulary {
        bail!(
            "{}: the tokenizer gives token {largest}, but the model's vocabulary has {vocabulary} entries; they do not \
             belong together",
            directory.display()
        );
    }
    Ok(())
}

/// Random tokens: the speed of a model does not depend on which they are.
fn random(job: &CellJob, condition: Condition, limit: usize, dimensions: &Dimensions) -> Result<Prepared> {
    let length = match condition {
        Condition::Full => RANDOM_TOKENS.min(limit),
        Condition::TruncateTokens(tokens) if tokens <= limit => tokens,
        Condition::TruncateTokens(tokens) => bail!("condition tok={tokens}: the limit is {limit} tokens"),
        Condition::TruncateBp(_) | Condition::Bin(_) => bail!(
            "condition {condition}: a synthetic model without a tokenizer.json beside its config has no bases; use \
             --truncate-tokens"
        ),
    };
    let count = RANDOM_SEQUENCES.min(job.samples_per_condition);
    let vocabulary = (dimensions.vocabulary as u64).max(1);
    let sequences = (0..count).map(|index| TokenisedSequence {
        index,
        ids: (0..length)
            .map(|token| (splitmix::at(job.seed, (index * length + token) as u64) % vocabulary) as u32)
            .collect(),
        bases: 0,
        length_bp: 0,
        truncated: false,
    });
    let sequences = sequences.collect();
    Ok(Prepared {
        workload: Workload { condition, sequences },
        padding: padding(0),
        real: false,
    })
}
