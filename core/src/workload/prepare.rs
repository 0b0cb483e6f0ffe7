use super::{Condition, Sampling, TokenisedSequence, Tokenizer, WorkloadError};
use crate::data::Dataset;

/// The tokenised sequences of a condition, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The condition.
    pub condition: Condition,
    /// The sequences; there is at least one.
    pub sequences: Vec<TokenisedSequence>,
}

impl Workload {
    /// Chooses, cuts and tokenises the sequences of a condition.
    ///
    /// `max_tokens` is the limit of tokens a sequence, the special ones included: the smaller of what the user allows
    /// and the model's `max_position_embeddings`.
    ///
    /// # Errors
    /// The condition has no sequence, leaves nothing of one, or asks for more tokens than `max_tokens`; the limit
    /// leaves no room beside the special tokens; the tokenizer refuses a sequence.
    pub fn prepare(
        dataset: &Dataset,
        condition: Condition,
        sampling: &Sampling,
        tokenizer: &Tokenizer,
        max_tokens: usize,
    ) -> Result<Self, WorkloadError> {
        let (max_bases, limit) = match condition {
            Condition::TruncateBp(0) | Condition::TruncateTokens(0) | Condition::Bin(0) => {
                return Err(WorkloadError::ZeroLength { condition });
            }
            Condition::TruncateTokens(tokens) if tokens > max_tokens => {
                return Err(WorkloadError::BeyondLimit {
                    condition,
                    limit: max_tokens,
                });
            }
            Condition::TruncateTokens(tokens) => (usize::MAX, tokens),
            Condition::TruncateBp(bases) => (bases, max_tokens),
            Condition::Full | Condition::Bin(_) => (usize::MAX, max_tokens),
        };
        let chosen = sampling.select(dataset, condition)?;
        let tokenizer = tokenizer.limited(limit)?;
        let tokenise = |index: usize| {
            let sequence = &dataset.sequences[index];
            // One byte a base: a data set holds A C G T N only.
            let bases = sequence.bases.get(..max_bases).unwrap_or(&sequence.bases);
            tokenizer
                .tokenise(index, bases)
                .map_err(|source| WorkloadError::Tokenise {
                    genome_id: sequence.genome_id.clone(),
                    fragment_id: sequence.fragment_id.clone(),
                    source,
                })
        };
        let sequences = chosen.into_iter().map(tokenise).collect::<Result<_, _>>()?;
        Ok(Self { condition, sequences })
    }

    /// Leaves of each sequence its first `prompt_tokens`, and of the workload the sequences that have as many.
    ///
    /// # Errors
    /// [`WorkloadError::PromptTooLong`] when none has.
    pub fn cut_to_prompts(&mut self, prompt_tokens: usize) -> Result<(), WorkloadError> {
        let lengths = self.sequences.iter().map(|sequence| sequence.ids.len());
        let longest = lengths.max().unwrap_or(0);
        if longest < prompt_tokens {
            return Err(WorkloadError::PromptTooLong {
                prompt_tokens,
                longest,
            });
        }
        self.sequences
            .retain(|sequence| sequence.ids.len() >= prompt_tokens);
        for sequence in &mut self.sequences {
            sequence.ids.truncate(prompt_tokens);
        }
        Ok(())
    }

    /// Number of sequences that lost tokens to the limit.
    pub fn truncated(&self) -> usize {
        self.sequences
            .iter()
            .filter(|sequence| sequence.truncated)
            .count()
    }

    /// Mean number of bases a sequence, before tokens were cut off: the column `mean_bp`.
    pub fn mean_bp(&self) -> f64 {
        self.mean(|sequence| sequence.length_bp)
    }

    /// Mean number of tokens a sequence, the special ones included: the column `mean_tokens`.
    pub fn mean_tokens(&self) -> f64 {
        self.mean(|sequence| sequence.ids.len())
    }

    fn mean(&self, value: impl Fn(&TokenisedSequence) -> usize) -> f64 {
        self.sequences.iter().map(value).sum::<usize>() as f64 / self.sequences.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha2::{Digest, Sha256};

    use super::*;

    fn prepare(condition: Condition, max_tokens: usize) -> Result<Workload, WorkloadError> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let dataset = Dataset::read(&examples.join("data/eval.csv")).unwrap();
        let tokenizer = Tokenizer::from_directory(&examples.join("go-mini-12m")).unwrap();
        let sampling = Sampling {
            bins: vec![1000, 5000],
            samples_per_condition: 1000,
            seed: 42,
        };
        Workload::prepare(&dataset, condition, &sampling, &tokenizer, max_tokens)
    }

    /// Tokens, bases of the kept tokens, truncated sequences, and SHA-256 of all ids as little-endian u32.
    fn summary(workload: &Workload) -> (usize, usize, usize, String) {
        let mut hasher = Sha256::new();
        for id in workload.sequences.iter().flat_map(|sequence| &sequence.ids) {
            hasher.update(id.to_le_bytes());
        }
        (
            workload.sequences.iter().map(|sequence| sequence.ids.len()).sum(),
            workload.sequences.iter().map(|sequence| sequence.bases).sum(),
            workload.truncated(),
            hasher
                .finalize()
                .iter()
                .take(4)
                .fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
        )
    }

    /// Expected values from the Python package tokenizers 0.23.3 (`enable_truncation`) on the 104 default fragments.
    #[test]
    fn the_default_data_are_tokenised_as_by_the_python_package() {
        let full = prepare(Condition::Full, 1024).unwrap();
        assert_eq!(summary(&full), (104_653, 519_804, 8, "8f8185ed".to_owned()));
        assert_eq!((full.mean_bp(), full.mean_tokens()), (5000.0, 104_653.0 / 104.0));
        let cut = prepare(Condition::TruncateTokens(512), 1024).unwrap();
        assert_eq!(summary(&cut), (53_248, 264_230, 104, "2ac5ed9d".to_owned()));
        let long = prepare(Condition::Bin(5000), 32_768).unwrap();
        assert_eq!(summary(&long), (104_695, 520_000, 0, "1aa9f89a".to_owned()));
    }

    /// Expected values as above, with `seq[:1000]`.
    #[test]
    fn bases_are_cut_before_tokenising() {
        let cut = prepare(Condition::TruncateBp(1000), 1024).unwrap();
        assert_eq!(summary(&cut), (21_132, 104_000, 0, "ad01b833".to_owned()));
        assert_eq!(cut.mean_bp(), 1000.0);
        assert_eq!(
            prepare(Condition::TruncateBp(10_000), 1024).unwrap().mean_bp(),
            5000.0
        );
    }

    #[test]
    fn impossible_conditions_are_refused() {
        let message = |condition, max_tokens| prepare(condition, max_tokens).unwrap_err().to_string();
        assert!(message(Condition::TruncateBp(0), 1024).contains("`bp=0`: the number must be at least 1"));
        assert!(
            message(Condition::TruncateTokens(1025), 1024).contains("more tokens than the limit of 1024")
        );
        assert!(message(Condition::TruncateTokens(2), 1024).contains("no room beside the tokenizer's 2"));
        assert!(message(Condition::Bin(1000), 1024).contains("has no sequence"));
    }
}
