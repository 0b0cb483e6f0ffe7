//! What a user may choose.

use qbench_sdk::{Error, Options, Result};

/// Whose kernels multiply quantised weights on a GPU; on the CPU they are torch's always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelChoice {
    /// Ours, of `qbench-kernels`.
    Own,
    /// Torch's operations alone.
    Torch,
    /// Torch's operations, and the constant of bitsandbytes' CPU code in int8 products; on the CPU only. That constant is
    /// 1.8e-5 too large: for who must have the logits of the library.
    BitsandbytesCpu,
}

impl KernelChoice {
    /// What the option `kernels` says: `own`, which is the default, `torch` or `bitsandbytes-cpu`.
    pub(crate) fn from_options(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let named: String = options.take("kernels", "own".to_owned())?;
        options.finish(&["kernels"])?;
        match named.as_str() {
            "own" => Ok(Self::Own),
            "torch" => Ok(Self::Torch),
            "bitsandbytes-cpu" => Ok(Self::BitsandbytesCpu),
            other => Err(Error::InvalidArgument(format!(
                "kernels: `{other}`; known: own, torch, bitsandbytes-cpu"
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
        assert_eq!(
            parse("kernels=bitsandbytes-cpu").unwrap(),
            KernelChoice::BitsandbytesCpu
        );
        for (text, words) in [("kernels=cuda", "own, torch"), ("kernel=own", "kernel")] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
