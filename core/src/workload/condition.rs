use std::fmt;
use std::str::FromStr;

use super::WorkloadError;

/// How long the sequences of a cell are; its label is the column `condition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// As they are, up to the model's limit: `full`.
    Full,
    /// Cut to a number of bases: `bp=10000`. Shorter sequences take part as they are.
    TruncateBp(usize),
    /// Cut to a number of tokens, the special ones included: `tok=512`. Shorter sequences take part as they are.
    TruncateTokens(usize),
    /// Those whose length in bases is nearest to this bin: `bin~5000`.
    Bin(usize),
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("full"),
            Self::TruncateBp(bases) => write!(formatter, "bp={bases}"),
            Self::TruncateTokens(tokens) => write!(formatter, "tok={tokens}"),
            Self::Bin(bases) => write!(formatter, "bin~{bases}"),
        }
    }
}

impl FromStr for Condition {
    type Err = WorkloadError;

    fn from_str(label: &str) -> Result<Self, Self::Err> {
        let number = |prefix: &str| -> Option<usize> {
            label
                .strip_prefix(prefix)?
                .parse()
                .ok()
                .filter(|&number| number > 0)
        };
        if label == "full" {
            Ok(Self::Full)
        } else if let Some(bases) = number("bp=") {
            Ok(Self::TruncateBp(bases))
        } else if let Some(tokens) = number("tok=") {
            Ok(Self::TruncateTokens(tokens))
        } else if let Some(bases) = number("bin~") {
            Ok(Self::Bin(bases))
        } else {
            Err(WorkloadError::UnknownCondition {
                label: label.to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_back() {
        for (condition, label) in [
            (Condition::Full, "full"),
            (Condition::TruncateBp(10000), "bp=10000"),
            (Condition::TruncateTokens(512), "tok=512"),
            (Condition::Bin(5000), "bin~5000"),
        ] {
            assert_eq!(condition.to_string(), label);
            assert_eq!(label.parse::<Condition>().unwrap(), condition);
        }
    }

    #[test]
    fn other_labels_are_refused() {
        for label in [
            "", "Full", "bp=", "bp=0", "bp=-1", "bp=1e4", "tok~5", "bin~5 ", "token=5",
        ] {
            let error = label.parse::<Condition>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{label}` is no condition; expected `full`")),
                "{error}"
            );
        }
    }
}
