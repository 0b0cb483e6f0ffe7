use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::WorkloadError;

/// What the model does with a batch while it is timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WorkloadKind {
    /// Hidden states averaged over the tokens of each sequence: `embed`.
    #[default]
    Embed,
    /// Logits of every position, from which likelihoods follow: `score`.
    Score,
    /// The tokens after a prompt, the likeliest each time, one pass a token: `decode 128+32`.
    Decode(Generation),
}

/// The lengths of a generation, the same for all sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Tokens of the prompt: the first of each sequence.
    pub prompt_tokens: NonZeroUsize,
    /// Tokens to generate.
    pub generated_tokens: NonZeroUsize,
}

impl WorkloadKind {
    /// Whether this is `embed`, which records without a kind are of.
    pub fn is_embed(&self) -> bool {
        *self == Self::Embed
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => formatter.write_str("embed"),
            Self::Score => formatter.write_str("score"),
            Self::Decode(Generation {
                prompt_tokens,
                generated_tokens,
            }) => write!(formatter, "decode {prompt_tokens}+{generated_tokens}"),
        }
    }
}

impl FromStr for WorkloadKind {
    type Err = WorkloadError;

    fn from_str(label: &str) -> Result<Self, Self::Err> {
        let generation = || {
            let (prompt, generated) = label.strip_prefix("decode ")?.split_once('+')?;
            Some(Self::Decode(Generation {
                prompt_tokens: prompt.parse().ok()?,
                generated_tokens: generated.parse().ok()?,
            }))
        };
        match label {
            "embed" => Ok(Self::Embed),
            "score" => Ok(Self::Score),
            _ => generation().ok_or_else(|| WorkloadError::UnknownKind {
                label: label.to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for WorkloadKind {
    type Error = WorkloadError;

    fn try_from(label: String) -> Result<Self, Self::Error> {
        label.parse()
    }
}

impl From<WorkloadKind> for String {
    fn from(kind: WorkloadKind) -> Self {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_back() {
        for label in ["embed", "score", "decode 128+32"] {
            assert_eq!(label.parse::<WorkloadKind>().unwrap().to_string(), label);
        }
    }

    #[test]
    fn other_labels_are_refused() {
        for label in ["", "decode", "decode 0+1", "decode 1+0", "decode 1", "Embed"] {
            let error = label.parse::<WorkloadKind>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{label}` is no workload")), "{error}");
        }
    }
}
