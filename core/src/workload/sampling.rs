use sha2::{Digest, Sha256};

use super::{Condition, WorkloadError};
use crate::data::Dataset;

/// Which sequences of a data set take part in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Every bin of the run, in bases: a sequence belongs to the nearest, to the smaller of two equally near.
    pub bins: Vec<usize>,
    /// At most this many sequences a condition, drawn without replacement when there are more.
    pub samples_per_condition: usize,
    /// Seed of the draw.
    pub seed: u64,
}

impl Sampling {
    /// Indexes of the chosen sequences, in file order.
    ///
    /// The draw keeps the sequences whose SHA-256 of (seed, index), both as 8 little-endian bytes, is smallest: it is
    /// the same on every machine and in every version.
    ///
    /// # Errors
    /// [`WorkloadError::Empty`] when no sequence is left.
    pub fn select(&self, dataset: &Dataset, condition: Condition) -> Result<Vec<usize>, WorkloadError> {
        let count = dataset.sequences.len();
        let empty = |reason| Err(WorkloadError::Empty { condition, reason });
        let mut chosen: Vec<usize> = match condition {
            Condition::Bin(bin) => (0..count)
                .filter(|&index| self.nearest_bin(dataset.sequences[index].bases.len()) == Some(bin))
                .collect(),
            _ => (0..count).collect(),
        };
        if self.samples_per_condition == 0 {
            return empty("0 samples per condition are asked for".to_owned());
        }
        if chosen.is_empty() {
            let lengths = || dataset.sequences.iter().map(|sequence| sequence.bases.len());
            return empty(format!(
                "none of the {count} sequences, {} to {} bp long, is nearest to it among the bins {:?}",
                lengths().min().unwrap_or_default(),
                lengths().max().unwrap_or_default(),
                self.bins
            ));
        }
        if chosen.len() > self.samples_per_condition {
            chosen.sort_by_cached_key(|&index| self.rank(index));
            chosen.truncate(self.samples_per_condition);
            chosen.sort_unstable();
        }
        Ok(chosen)
    }

    fn nearest_bin(&self, length: usize) -> Option<usize> {
        self.bins
            .iter()
            .copied()
            .min_by_key(|&bin| (bin.abs_diff(length), bin))
    }

    fn rank(&self, index: usize) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.seed.to_le_bytes());
        hasher.update((index as u64).to_le_bytes());
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::Sequence;

    fn dataset(lengths: impl IntoIterator<Item = usize>) -> Dataset {
        let sequence = |length| Sequence {
            genome_id: "g".to_owned(),
            fragment_id: "f".to_owned(),
            bases: "A".repeat(length),
        };
        Dataset {
            sequences: lengths.into_iter().map(sequence).collect(),
            source: PathBuf::from("test.csv"),
            sha256: String::new(),
            ambiguous_bases: 0,
        }
    }

    fn sampling(samples_per_condition: usize, seed: u64) -> Sampling {
        Sampling {
            bins: vec![5000, 1000, 10000],
            samples_per_condition,
            seed,
        }
    }

    #[test]
    fn a_sequence_goes_to_the_nearest_bin_and_to_the_smaller_of_two() {
        let dataset = dataset([1, 3000, 3001, 7500, 7501, 90000, 5000]);
        let select = |bin| sampling(1000, 0).select(&dataset, Condition::Bin(bin)).unwrap();
        assert_eq!(select(1000), [0, 1]);
        assert_eq!(select(5000), [2, 3, 6]);
        assert_eq!(select(10000), [4, 5]);
    }

    #[test]
    fn few_sequences_are_taken_whole_and_in_order() {
        for condition in [
            Condition::Full,
            Condition::TruncateBp(3),
            Condition::TruncateTokens(3),
        ] {
            assert_eq!(
                sampling(4, 7).select(&dataset([5; 4]), condition).unwrap(),
                [0, 1, 2, 3]
            );
        }
    }

    /// Expected values: `sorted(sorted(range(100), key=lambda i: hashlib.sha256(struct.pack('<QQ', seed, i)).digest())[:5])`.
    #[test]
    fn more_are_drawn_by_the_seed() {
        let dataset = dataset([5; 100]);
        let select = |seed| sampling(5, seed).select(&dataset, Condition::Full).unwrap();
        assert_eq!(select(42), [13, 62, 63, 75, 96]);
        assert_eq!(select(43), [10, 25, 49, 71, 89]);
    }

    #[test]
    fn a_condition_without_sequences_says_why() {
        let message = |sampling: Sampling, condition| {
            sampling
                .select(&dataset([1, 900]), condition)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(sampling(10, 0), Condition::Bin(5000)),
            "condition `bin~5000` has no sequence: none of the 2 sequences, 1 to 900 bp long, is nearest to it among \
             the bins [5000, 1000, 10000]"
        );
        assert!(message(sampling(0, 0), Condition::Full).ends_with("0 samples per condition are asked for"));
    }
}
