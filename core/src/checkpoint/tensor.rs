use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;
use qbench_sdk::{AlignedBuffer, DType, Matrix};

/// What is known of a tensor before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Sizes of its dimensions, as stored.
    pub shape: Vec<usize>,
    /// Element type; `None` for types that are no weights (integers, 8-bit floats, …).
    pub dtype: Option<DType>,
    /// Element type as safetensors calls it.
    pub stored_as: safetensors::Dtype,
}

impl TensorEntry {
    /// Rows of the tensor as a matrix: the first dimension, 1 for a vector or a scalar.
    pub fn rows(&self) -> usize {
        match self.shape.as_slice() {
            [] | [_] => 1,
            [rows, ..] => *rows,
        }
    }

    /// Columns of the tensor as a matrix: all dimensions but the first together, or a vector's length.
    pub fn cols(&self) -> usize {
        match self.shape.as_slice() {
            [length] => *length,
            [] => 1,
            [_, rest @ ..] => rest.iter().product(),
        }
    }

    /// Bytes of the tensor.
    pub fn bytes(&self) -> usize {
        self.rows() * self.cols() * self.stored_as.bitsize() / 8
    }
}

/// The type as safetensors calls it.
pub(super) fn safetensors_type(dtype: DType) -> safetensors::Dtype {
    match dtype {
        DType::F32 => safetensors::Dtype::F32,
        DType::F16 => safetensors::Dtype::F16,
        DType::BF16 => safetensors::Dtype::BF16,
        DType::I8 => safetensors::Dtype::I8,
        DType::U8 => safetensors::Dtype::U8,
    }
}

/// Bytes of a tensor, mapped from a file or owned.
#[derive(Debug)]
pub(super) enum TensorBytes {
    Mapped { file: Arc<Mmap>, range: Range<usize> },
    Owned(AlignedBuffer),
}

impl Deref for TensorBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped { file, range } => &file[range.clone()],
            Self::Owned(buffer) => buffer,
        }
    }
}

/// A tensor as the checkpoint holds it; keeps its file mapped, or its memory, until it is dropped.
#[derive(Debug)]
pub struct SourceTensor {
    pub(super) bytes: TensorBytes,
    rows: usize,
    cols: usize,
    dtype: DType,
}

impl SourceTensor {
    /// `bytes` must hold `rows · cols` elements exactly.
    pub(super) fn new(bytes: TensorBytes, rows: usize, cols: usize, dtype: DType) -> Self {
        debug_assert_eq!(bytes.len(), rows * cols * dtype.size());
        Self {
            bytes,
            rows,
            cols,
            dtype,
        }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The tensor as a matrix: a vector is `1 × n`, more than two dimensions are flattened to `[first, rest]`.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.bytes, self.rows, self.cols, self.dtype)
            .expect("the bytes hold rows x cols elements")
    }

    /// Whether the bytes are mapped from a file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, TensorBytes::Mapped { .. })
    }
}
