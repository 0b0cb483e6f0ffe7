//! Which instructions the kernels use.

use std::{fmt, str::FromStr, sync::OnceLock};

/// Forces an instruction set: `portable`, `avx2`, `avx512` or `avx512-dot`.
pub const VARIABLE: &str = "QBENCH_CPU_INSTRUCTIONS";

/// The sets that kernels are written for, each with all that the ones before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstructionSet {
    /// What the compiler makes for any processor of the architecture.
    Portable,
    /// AVX2 with FMA: vectors of 256 bits.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: vectors of 512 bits.
    Avx512,
    /// AVX-512 with VNNI and BF16: dot products of bytes and of bf16.
    Avx512Dot,
}

impl InstructionSet {
    /// All sets, the least first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Dot];

    /// Whether this processor has it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        macro_rules! has {
            ($($name:tt)*) => { $(std::arch::is_x86_feature_detected!($name))&&* };
        }
        match self {
            Self::Portable => true,
            Self::Avx2 => has!("avx2" "fma"),
            Self::Avx512 => Self::Avx2.is_available() && has!("avx512f" "avx512bw" "avx512dq" "avx512vl"),
            Self::Avx512Dot => Self::Avx512.is_available() && has!("avx512vnni" "avx512bf16"),
        }
    }

    /// Whether this processor has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }

    /// The most that this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| {
            Self::ALL
                .into_iter()
                .rev()
                .find(|set| set.is_available())
                .unwrap_or(Self::Portable)
        })
    }

    /// The set that [`VARIABLE`] names, else the best.
    ///
    /// # Errors
    /// A name that is not known, a set that the processor lacks.
    pub fn from_environment() -> Result<Self, String> {
        let Some(value) = std::env::var_os(VARIABLE) else {
            return Ok(Self::best());
        };
        let set: Self = value
            .to_string_lossy()
            .parse()
            .map_err(|reason| format!("{VARIABLE}: {reason}"))?;
        if set.is_available() {
            Ok(set)
        } else {
            Err(format!(
                "{VARIABLE}: this processor has no {set}; the most it has is {}",
                Self::best()
            ))
        }
    }

    /// The name that [`VARIABLE`] takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Dot => "avx512-dot",
        }
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InstructionSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|set| set.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                format!("`{text}` is no instruction set; known: {known}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_sets_are_nested() {
        for set in InstructionSet::ALL {
            assert_eq!(set.as_str().parse(), Ok(set));
            if set.is_available() {
                assert!(set <= InstructionSet::best());
            }
        }
        let error = "sse9".parse::<InstructionSet>().expect_err("no such set");
        assert!(error.contains("sse9") && error.contains("avx512-dot"), "{error}");
        assert!(InstructionSet::Portable.is_available());
    }
}
