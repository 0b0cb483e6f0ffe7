use std::num::NonZeroUsize;

use super::TokenisedSequence;

/// On which side shorter sequences are filled up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingSide {
    /// After the tokens.
    #[default]
    Right,
    /// Before the tokens.
    Left,
}

/// How shorter sequences are filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// The id that fills.
    pub id: u32,
    /// Where it is put.
    pub side: PaddingSide,
}

/// The sequences of one call, padded to the longest of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[batch, length]` row by row.
    pub ids: Vec<u32>,
    /// 1 for a token, 0 for padding, `[batch, length]`.
    pub mask: Vec<u8>,
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of the longest sequence.
    pub length: usize,
    /// Index of each sequence in its data set.
    pub sequences: Vec<usize>,
    /// Bases that the tokens stand for, all sequences together.
    pub bases: u64,
    /// Tokens, padding left out, all sequences together.
    pub tokens: u64,
}

/// The sequences, in their order, `batch_size` a batch (the last may be smaller), at most `max_batches` batches.
pub fn batches(
    sequences: &[TokenisedSequence],
    batch_size: NonZeroUsize,
    max_batches: Option<usize>,
    padding: Padding,
) -> Vec<Batch> {
    sequences
        .chunks(batch_size.get())
        .take(max_batches.unwrap_or(usize::MAX))
        .map(|sequences| batch(sequences, padding))
        .collect()
}

fn batch(sequences: &[TokenisedSequence], padding: Padding) -> Batch {
    let length = sequences
        .iter()
        .map(|sequence| sequence.ids.len())
        .max()
        .unwrap_or(0);
    let mut ids = Vec::with_capacity(sequences.len() * length);
    let mut mask = Vec::with_capacity(sequences.len() * length);
    for sequence in sequences {
        let tokens = sequence.ids.len();
        let (before, after) = match padding.side {
            PaddingSide::Right => (0, length - tokens),
            PaddingSide::Left => (length - tokens, 0),
        };
        ids.extend(std::iter::repeat_n(padding.id, before));
        ids.extend_from_slice(&sequence.ids);
        ids.extend(std::iter::repeat_n(padding.id, after));
        mask.extend(std::iter::repeat_n(0, before));
        mask.extend(std::iter::repeat_n(1, tokens));
        mask.extend(std::iter::repeat_n(0, after));
    }
    Batch {
        ids,
        mask,
        batch: sequences.len(),
        length,
        sequences: sequences.iter().map(|sequence| sequence.index).collect(),
        bases: sequences.iter().map(|sequence| sequence.bases as u64).sum(),
        tokens: sequences.iter().map(|sequence| sequence.ids.len() as u64).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences() -> Vec<TokenisedSequence> {
        [(4, &[1, 5, 2][..]), (6, &[1, 5, 6, 7, 2]), (9, &[1, 8, 2])]
            .map(|(index, ids)| TokenisedSequence {
                index,
                ids: ids.to_vec(),
                bases: index * 10,
                length_bp: index * 10,
                truncated: false,
            })
            .to_vec()
    }

    fn size(size: usize) -> NonZeroUsize {
        NonZeroUsize::new(size).unwrap()
    }

    #[test]
    fn sequences_are_padded_on_the_right() {
        let batches = batches(
            &sequences(),
            size(2),
            None,
            Padding {
                id: 3,
                side: PaddingSide::Right,
            },
        );
        assert_eq!(
            batches,
            [
                Batch {
                    ids: vec![1, 5, 2, 3, 3, 1, 5, 6, 7, 2],
                    mask: vec![1, 1, 1, 0, 0, 1, 1, 1, 1, 1],
                    batch: 2,
                    length: 5,
                    sequences: vec![4, 6],
                    bases: 100,
                    tokens: 8,
                },
                Batch {
                    ids: vec![1, 8, 2],
                    mask: vec![1; 3],
                    batch: 1,
                    length: 3,
                    sequences: vec![9],
                    bases: 90,
                    tokens: 3,
                },
            ]
        );
    }

    #[test]
    fn sequences_are_padded_on_the_left() {
        let batches = batches(
            &sequences(),
            size(3),
            None,
            Padding {
                id: 3,
                side: PaddingSide::Left,
            },
        );
        assert_eq!(batches[0].ids, [3, 3, 1, 5, 2, 1, 5, 6, 7, 2, 3, 3, 1, 8, 2]);
        assert_eq!(batches[0].mask, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn the_number_of_batches_can_be_limited() {
        let padding = Padding {
            id: 3,
            side: PaddingSide::Right,
        };
        let batches = batches(&sequences(), size(1), Some(2), padding);
        assert_eq!(
            batches.iter().map(|batch| batch.sequences[0]).collect::<Vec<_>>(),
            [4, 6]
        );
    }
}
