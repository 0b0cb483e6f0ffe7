//! Golden data: what bitsandbytes computed on a CPU (`tests/fixtures/bitsandbytes/README.md`), and how to compare with
//! it.

use std::{fmt::Write, path::PathBuf};

use qbench_sdk::{AlignedBuffer, CallContext, DType, Layout, Matrix, MatrixMut, QuantScheme, narrow, widen};
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The float types of a source matrix, by their names in the golden data.
pub(crate) const FLOATS: [(&str, DType); 3] =
    [("f32", DType::F32), ("bf16", DType::BF16), ("f16", DType::F16)];

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/bitsandbytes")
        .join(file)
}

fn read(file: &str) -> Vec<u8> {
    let path = path(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON file of the golden data.
pub(crate) fn json(file: &str) -> Value {
    serde_json::from_slice(&read(file)).unwrap()
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// A safetensors file.
pub(crate) struct Golden {
    file: String,
    bytes: Vec<u8>,
}

impl Golden {
    pub(crate) fn open(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            bytes: read(file),
        }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        match self.tensors().tensor(name) {
            Ok(tensor) => tensor.data().to_vec(),
            Err(error) => panic!("{}: {name}: {error}", self.file),
        }
    }

    pub(crate) fn shape(&self, name: &str) -> (usize, usize) {
        let tensors = self.tensors();
        match tensors.tensor(name).unwrap().shape() {
            [rows, cols] => (*rows, *cols),
            shape => panic!("{}: {name} has shape {shape:?}", self.file),
        }
    }

    /// The values of a float tensor, widened to f32.
    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        let dtype = match tensor.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => panic!("{}: {name} has type {other:?}", self.file),
        };
        let mut values = vec![0.0; tensor.data().len() / dtype.size()];
        widen(tensor.data(), dtype, &mut values).unwrap();
        values
    }

    pub(crate) fn i32s(&self, name: &str) -> Vec<i32> {
        self.bytes(name)
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes))
            .collect()
    }

    pub(crate) fn i64s(&self, name: &str) -> Vec<i64> {
        self.bytes(name)
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
            .collect()
    }
}

/// Values rounded to nearest even, as the elements of a matrix.
pub(crate) fn cast(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    narrow(values, dtype, &mut bytes).unwrap();
    bytes
}

/// Little-endian bytes of f32 values.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    cast(values, DType::F32)
}

/// A quantised matrix.
pub(crate) struct Stored {
    pub(crate) layout: Layout,
    buffers: Vec<AlignedBuffer>,
}

impl Stored {
    /// Quantises a matrix of the given elements.
    pub(crate) fn quantize(
        scheme: &dyn QuantScheme,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        dtype: DType,
        threads: usize,
    ) -> Self {
        let source = Matrix::new(bytes, rows, cols, dtype).unwrap();
        let layout = scheme.layout(rows, cols, dtype).unwrap();
        let mut buffers: Vec<AlignedBuffer> = layout
            .buffers()
            .iter()
            .map(|buffer| AlignedBuffer::zeroed(buffer.bytes))
            .collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
        scheme
            .quantize(source, &layout, &mut slices, CallContext { threads })
            .unwrap();
        Self { layout, buffers }
    }

    /// The bytes of a buffer.
    pub(crate) fn buffer(&self, name: &str) -> &[u8] {
        let index = self
            .layout
            .buffers()
            .iter()
            .position(|buffer| buffer.name == name)
            .unwrap();
        &self.buffers[index]
    }

    /// All buffers, in order.
    pub(crate) fn buffers(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(|buffer| &buffer[..]).collect()
    }

    /// The whole matrix, decoded by the scheme.
    pub(crate) fn dequantize(&self, scheme: &dyn QuantScheme, dtype: DType) -> Vec<u8> {
        let (rows, cols) = (self.layout.rows(), self.layout.cols());
        let mut bytes = vec![0; rows * cols * dtype.size()];
        let mut out = MatrixMut::new(&mut bytes, rows, cols, dtype).unwrap();
        scheme
            .dequantize(
                &self.layout,
                &self.buffers(),
                0,
                &mut out,
                CallContext::single_threaded(),
            )
            .unwrap();
        bytes
    }
}
