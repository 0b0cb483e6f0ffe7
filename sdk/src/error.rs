//! Errors on both sides of the boundary.

use qbench_abi::{
    AbiError, AbiResult, ErrorCode,
    abi_stable::std_types::{RErr, ROk, RString},
};

/// What went wrong in a plugin, a backend, or the host's services to them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is legal, but not implemented here.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The request breaks the contract.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A tensor, scheme, backend or device of that name does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// Memory or another resource is exhausted.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Plugin code panicked.
    #[error("panicked: {0}")]
    Panic(String),
    /// Anything else; the message tells.
    #[error("{0}")]
    Internal(String),
}

/// Result with the sdk's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unsupported(_) => ErrorCode::UNSUPPORTED,
            Self::InvalidArgument(_) => ErrorCode::INVALID_ARGUMENT,
            Self::NotFound(_) => ErrorCode::NOT_FOUND,
            Self::OutOfMemory(_) => ErrorCode::RESOURCE_EXHAUSTED,
            Self::Panic(_) => ErrorCode::PANIC,
            Self::Internal(_) => ErrorCode::INTERNAL,
        }
    }

    fn message(self) -> String {
        match self {
            Self::Unsupported(message)
            | Self::InvalidArgument(message)
            | Self::NotFound(message)
            | Self::OutOfMemory(message)
            | Self::Panic(message)
            | Self::Internal(message) => message,
        }
    }

    pub(crate) fn into_abi(self) -> AbiError {
        AbiError {
            code: self.code(),
            message: RString::from(self.message()),
            causes: Vec::new().into(),
        }
    }

    pub(crate) fn from_abi(error: &AbiError) -> Self {
        let mut message = error.message.to_string();
        for cause in &error.causes {
            message.push_str(": ");
            message.push_str(cause);
        }
        match error.code {
            ErrorCode::UNSUPPORTED => Self::Unsupported(message),
            ErrorCode::INVALID_ARGUMENT => Self::InvalidArgument(message),
            ErrorCode::NOT_FOUND => Self::NotFound(message),
            ErrorCode::RESOURCE_EXHAUSTED => Self::OutOfMemory(message),
            ErrorCode::PANIC => Self::Panic(message),
            _ => Self::Internal(message),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::InvalidArgument(format!("JSON: {error}"))
    }
}

pub(crate) fn to_abi<T>(result: Result<T>) -> AbiResult<T> {
    match result {
        Ok(value) => ROk(value),
        Err(error) => RErr(error.into_abi()),
    }
}

pub(crate) fn from_abi<T>(result: AbiResult<T>) -> Result<T> {
    match result {
        ROk(value) => Ok(value),
        RErr(error) => Err(Error::from_abi(&error)),
    }
}
