//! Which kernels multiply.

use qbench_cpu_kernels::{InstructionSet, Operand};
use qbench_sdk::{DType, Error, Options, Result};

/// How products of matrices are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// The oracle: weights widened or decoded to f32, and the `gemm` crate.
    Reference,
    /// The project's own, for an instruction set.
    Own(InstructionSet),
}

impl Kernels {
    /// What the option `kernels` says: `reference` or an instruction set. Without it, the environment's set, else the
    /// best that the processor has.
    ///
    /// # Errors
    /// A name that is not known, a set that the processor lacks.
    pub fn from_options(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let named: String = options.take("kernels", String::new())?;
        options.finish(&["kernels"])?;
        let set = match named.as_str() {
            "" => InstructionSet::from_environment(),
            "reference" => return Ok(Self::Reference),
            name => name.parse().and_then(|set: InstructionSet| {
                if set.is_available() {
                    Ok(set)
                } else {
                    Err(format!(
                        "this processor has no {set}; the most it has is {}",
                        InstructionSet::best()
                    ))
                }
            }),
        };
        set.map(Self::Own)
            .map_err(|reason| Error::InvalidArgument(format!("kernels: {reason} (or `reference`)")))
    }

    /// The words for a product of floats in the precision.
    pub(crate) fn describe(self, precision: DType) -> String {
        match self {
            Self::Reference if precision == DType::F32 => "f32 gemm".to_owned(),
            Self::Reference => format!("f32 gemm on widened {precision}"),
            Self::Own(set) => match (precision, Operand::for_bf16(set)) {
                (DType::BF16, Operand::Bf16) => format!("bf16 tiles, {set}"),
                (DType::F32, _) => format!("f32 tiles, {set}"),
                (other, _) => format!("f32 tiles on widened {other}, {set}"),
            },
        }
    }
}
