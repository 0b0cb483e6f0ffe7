//! Options of a mode or backend, as typed by the user: `4bit_nf4:block=128`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Named options. An implementation takes the ones it knows and then calls [`Options::finish`], so that a misspelt
/// option is an error and never ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// No options.
    pub fn none() -> Self {
        Self::default()
    }

    /// Parses `key=value,key=value`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a part without `=` or a key given twice.
    pub fn parse(text: &str) -> Result<Self> {
        let mut options = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(Error::InvalidArgument(format!(
                    "option `{part}`: expected `key=value`"
                )));
            };
            if options
                .insert(key.trim().to_owned(), value.trim().to_owned())
                .is_some()
            {
                return Err(Error::InvalidArgument(format!("option `{key}` is given twice")));
            }
        }
        Ok(Self(options))
    }

    /// Whether no option is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that are left, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Takes the value of `key` out, or `default` when it is not there.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the value does not parse.
    pub fn take<T: std::str::FromStr>(&mut self, key: &str, default: T) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        match self.0.remove(key) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|error| Error::InvalidArgument(format!("option `{key}={text}`: {error}"))),
        }
    }

    /// Ends the reading of options.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming an option that nobody took and those that `known` lists.
    pub fn finish(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) if known.is_empty() => Err(Error::InvalidArgument(format!(
                "option `{key}`: no options are known here"
            ))),
            Some(key) => Err(Error::InvalidArgument(format!(
                "option `{key}` is unknown; known options: {}",
                known.join(", ")
            ))),
        }
    }
}

impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_once_and_leftovers_are_named() {
        let mut options = Options::parse("block=128, threshold=6.5").unwrap();
        assert_eq!(options.to_string(), "block=128,threshold=6.5");
        assert_eq!(options.take("block", 64_u32).unwrap(), 128);
        let error = options.finish(&["block"]).unwrap_err().to_string();
        assert!(error.contains("threshold") && error.contains("block"), "{error}");
        assert!(options.take("threshold", 6_u32).is_err());
        assert!(Options::parse("block").is_err());
        assert!(Options::parse("a=1,a=2").is_err());
    }
}
