//! What a user may choose.

use qbench_sdk::{Error, Options, Result};

/// Whose kernels multiply quantised weights on a GPU; on the CPU they are torch's always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelChoice {
    /// Ours, of `qbench-kernels`.
    Own,
    /// Torch's operations alone.
    Torch,
}

impl KernelChoice {
    /// What the option `kernels` says: `own`, which is the default, or `torch`.
    pub(crate) fn from_options(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let named: String = options.take("kernels", "own".to_owned())?;
        options.finish(&["kernels"])?;
        match named.as_str() {
            "own" => Ok(Self::Own),
            "torch" => Ok(Self::Torch),
            other => Err(Error::InvalidArgument(format!(
                "kernels: `{other}`; known: own, torch"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_name() {
        let parse = |text: &str| KernelChoice::from_options(&Options::parse(text).unwrap());
        assert_eq!(parse("").unwrap(), KernelChoice::Own);
        assert_eq!(parse("kernels=torch").unwrap(), KernelChoice::Torch);
        for (text, words) in [("kernels=cuda", "own, torch"), ("kernel=own", "kernel")] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
