//! Element types of buffers.

use std::fmt;

use qbench_abi::DTypeCode;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Element type of a matrix or buffer; all are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// Signed byte.
    I8,
    /// Unsigned byte; also packed codes.
    U8,
}

impl DType {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// The short name: `f32`, `f16`, `bf16`, `i8`, `u8`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I8 => "i8",
            Self::U8 => "u8",
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    pub(crate) fn to_code(self) -> DTypeCode {
        match self {
            Self::F32 => DTypeCode::F32,
            Self::F16 => DTypeCode::F16,
            Self::BF16 => DTypeCode::BF16,
            Self::I8 => DTypeCode::I8,
            Self::U8 => DTypeCode::U8,
        }
    }

    pub(crate) fn from_code(code: DTypeCode) -> Result<Self> {
        match code {
            DTypeCode::F32 => Ok(Self::F32),
            DTypeCode::F16 => Ok(Self::F16),
            DTypeCode::BF16 => Ok(Self::BF16),
            DTypeCode::I8 => Ok(Self::I8),
            DTypeCode::U8 => Ok(Self::U8),
            DTypeCode(other) => Err(Error::Unsupported(format!("element type with code {other}"))),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
