//! Exceptions of torch and refusals of our kernels as the sdk's errors.

use qbench_sdk::{Error, Result};
use tch::TchError;

/// Results of torch's operations.
pub(crate) trait Named<T> {
    /// The same with the sdk's error, which starts with the operation's name.
    fn op(self, name: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, TchError> {
    fn op(self, name: &str) -> Result<T> {
        self.map_err(|error| match error {
            TchError::Torch(text) => exception(name, &text),
            other => Error::Internal(format!("torch {name}: {other}")),
        })
    }
}

/// Words that torch has for too little memory.
const MEMORY: [&str; 6] = [
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "std::bad_alloc",
    "Storage size calculation overflowed",
];

/// What torch threw in an operation. Its text ends with a C++ backtrace of many lines, which says nothing to a user.
pub(crate) fn exception(name: &str, text: &str) -> Error {
    let reason: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Exception raised from") && !line.starts_with("frame #"))
        .filter(|line| !line.is_empty())
        .collect();
    let reason = reason.join(" ");
    // The CPU allocator's sentence comes after the place in torch's source that checked it.
    let reason = reason
        .split_once("DefaultCPUAllocator: ")
        .map_or(reason.as_str(), |(_, sentence)| sentence);
    let message = format!("torch {name}: {reason}");
    if MEMORY.iter().any(|words| text.contains(words)) {
        Error::OutOfMemory(message)
    } else {
        Error::Internal(message)
    }
}

/// What a kernel of ours said.
pub(crate) fn kernel(error: qbench_kernels::Error) -> Error {
    /// `CUDA_ERROR_OUT_OF_MEMORY`: a launch may fail for want of memory too.
    const OUT_OF_MEMORY: u32 = 2;
    match error {
        qbench_kernels::Error::Unsupported(text) => Error::Unsupported(text),
        qbench_kernels::Error::Source(text) => Error::InvalidArgument(text),
        qbench_kernels::Error::Driver { code, .. } if code == OUT_OF_MEMORY => {
            Error::OutOfMemory(error.to_string())
        }
        other => Error::Internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn an_exception_names_its_operation_and_its_reason() {
        let options = (Kind::Float, Device::Cpu);
        let (left, right) = (Tensor::zeros([2, 3], options), Tensor::zeros([4, 5], options));
        let error = left.f_mm(&right).op("mm").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("torch mm: "), "{text}");
        assert!(text.contains("2x3 and 4x5"), "{text}");
        assert!(!text.contains("frame") && !text.contains('\n'), "{text}");
        assert!(matches!(error, Error::Internal(_)), "{error}");
    }

    #[test]
    fn too_little_memory_is_told_apart() {
        let tensor = Tensor::f_empty([1_i64 << 46], (Kind::Float, Device::Cpu));
        let error = tensor.op("empty").unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        assert!(
            error.to_string().contains("torch empty: can't allocate memory"),
            "{error}"
        );
        let cuda =
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 139 GiB.\nException raised from x";
        let error = exception("linear", cuda);
        assert!(
            matches!(&error, Error::OutOfMemory(text) if text.ends_with("139 GiB.")),
            "{error}"
        );
    }
}
