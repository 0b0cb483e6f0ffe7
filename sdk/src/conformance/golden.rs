//! A tiny Llama and what transformers computes for it (5.23.0 with torch 2.11.0 on a CPU), in f32. The files are those of
//! the project's `tests/fixtures/transformers/llama`, made by `generate.py` there.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use crate::{
    AlignedBuffer, CallContext, DType, Error, Layout, Matrix, MatrixMut, QuantScheme, Result, StoredTensor,
    Weights,
    layout::{self, BufferSpec, Custom, Dense, Int8Vectorwise, ScaledFp8, fp8, int8},
    widen,
};

/// Text of the model's config.json.
pub(super) const CONFIG: &str = include_str!("golden/config.json");

static MODEL: &[u8] = include_bytes!("golden/model.safetensors");
static EXPECTED: &[u8] = include_bytes!("golden/expected.safetensors");

/// Sequences of the expected values, and tokens each.
pub(super) const BATCH: usize = 3;
pub(super) const LENGTH: usize = 20;
pub(super) const VOCABULARY: usize = 64;
pub(super) const HIDDEN: usize = 32;
pub(super) const LAYERS: usize = 3;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The tensors of one of the files above, which are in this program and known to be whole.
fn tensors(file: &'static [u8]) -> BTreeMap<String, (Entry, &'static [u8])> {
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
    let (header, data) = rest.split_at(length);
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).expect("a file of the kit");
    header.remove("__metadata__");
    let tensors = header.into_iter().map(|(name, entry)| {
        let entry: Entry = serde_json::from_value(entry).expect("a file of the kit");
        let [start, end] = entry.data_offsets;
        (name, (entry, &data[start..end]))
    });
    tensors.collect()
}

fn expected(name: &str) -> &'static [u8] {
    tensors(EXPECTED)[name].1
}

/// Expected f32 values.
pub(super) fn floats(name: &str) -> Vec<f32> {
    let values = expected(name).as_chunks::<4>().0.iter();
    values.map(|value| f32::from_le_bytes(*value)).collect()
}

/// Token ids, `[BATCH, LENGTH]`.
pub(super) fn ids() -> Vec<u32> {
    let values = expected("ids").as_chunks::<4>().0.iter();
    values.map(|value| u32::from_le_bytes(*value)).collect()
}

/// Their mask: the first sequence is not padded, the second on the right, the third on the left.
pub(super) fn mask() -> Vec<u8> {
    expected("mask").to_vec()
}

/// How the projections of a model are stored.
#[derive(Clone)]
pub(super) enum Storage {
    /// As the file has them.
    AsIs,
    /// By a scheme.
    Scheme(Arc<dyn QuantScheme>),
    /// As [`Layout::Int8Vectorwise`].
    Int8,
    /// As [`Layout::ScaledFp8`].
    Fp8,
    /// In a layout that nobody knows.
    Foreign,
    /// The values of another storage, in f32.
    Decoded(Box<Storage>),
    /// Other files than a model has.
    Without(&'static str),
    Misshapen(&'static str),
}

/// The weights of the model.
pub(super) struct GoldenWeights {
    storage: Storage,
    tensors: BTreeMap<String, (Entry, &'static [u8])>,
}

impl GoldenWeights {
    pub(super) fn new(storage: Storage) -> Self {
        Self {
            storage,
            tensors: tensors(MODEL),
        }
    }

    fn load(&self, name: &str, storage: &Storage) -> Result<Stored> {
        let missing = || Error::NotFound(format!("tensor `{name}` in the tiny model"));
        if matches!(storage, Storage::Without(gone) if *gone == name) {
            return Err(missing());
        }
        let (entry, bytes) = self.tensors.get(name).ok_or_else(missing)?;
        assert_eq!(entry.dtype, "BF16", "the tiny model is in bf16");
        let (rows, cols) = match entry.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return Err(missing()),
        };
        if matches!(storage, Storage::Misshapen(other) if *other == name) {
            return Stored::dense(&bytes[..cols * 2], 1, cols, DType::BF16);
        }
        if !name.ends_with("_proj.weight") {
            return Stored::dense(bytes, rows, cols, DType::BF16);
        }
        let mut values = vec![0.0; rows * cols];
        widen(bytes, DType::BF16, &mut values)?;
        match storage {
            Storage::AsIs | Storage::Without(_) | Storage::Misshapen(_) => {
                Stored::dense(bytes, rows, cols, DType::BF16)
            }
            Storage::Scheme(scheme) => {
                let layout = scheme.layout(rows, cols, DType::BF16)?;
                let mut buffers: Vec<AlignedBuffer> = layout
                    .buffers()
                    .iter()
                    .map(|spec| AlignedBuffer::zeroed(spec.bytes))
                    .collect();
                let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
                let source = Matrix::new(bytes, rows, cols, DType::BF16)?;
                scheme.quantize(source, &layout, &mut slices, CallContext::single_threaded())?;
                Ok(Stored { layout, buffers })
            }
            Storage::Int8 => {
                int8::round_to_f16(&mut values);
                let mut codes = vec![0; values.len()];
                let rows_of_codes = codes.chunks_exact_mut(cols).zip(values.chunks_exact(cols));
                let scales: Vec<f32> = rows_of_codes
                    .map(|(codes, values)| int8::quantize_row(values, codes))
                    .collect();
                Stored::new(
                    Layout::Int8Vectorwise(Int8Vectorwise { rows, cols }),
                    &[
                        bytemuck::cast_slice(&codes),
                        &bytes_of(&scales),
                        &bytes_of(&[6.0]),
                    ],
                )
            }
            Storage::Fp8 => {
                let mut codes = vec![0; values.len()];
                let rows_of_codes = codes.chunks_exact_mut(cols).zip(values.chunks_exact(cols));
                let scales: Vec<f32> = rows_of_codes
                    .map(|(codes, values)| fp8::quantize_row(values, codes))
                    .collect();
                Stored::new(
                    Layout::ScaledFp8(ScaledFp8 { rows, cols }),
                    &[&codes, &bytes_of(&scales)],
                )
            }
            Storage::Foreign => Stored::new(
                Layout::Custom(Custom {
                    kind: "org.example.backwards/1".to_owned(),
                    rows,
                    cols,
                    buffers: vec![BufferSpec::new("values", rows * cols, DType::F32)],
                    parameters: serde_json::Value::Null,
                }),
                &[&bytes_of(&values.iter().rev().copied().collect::<Vec<f32>>())],
            ),
            Storage::Decoded(storage) => {
                let stored = self.load(name, storage)?;
                let mut bytes = vec![0; values.len() * 4];
                let mut out = MatrixMut::new(&mut bytes, rows, cols, DType::F32)?;
                stored.dequantize(0, &mut out, CallContext::single_threaded())?;
                Stored::dense(&bytes, rows, cols, DType::F32)
            }
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Weights for GoldenWeights {
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.tensors.keys().cloned().collect())
    }

    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        Ok(Box::new(self.load(name, &self.storage)?))
    }
}

/// A weight in memory.
struct Stored {
    layout: Layout,
    buffers: Vec<AlignedBuffer>,
}

impl Stored {
    fn new(layout: Layout, buffers: &[&[u8]]) -> Result<Self> {
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        Ok(Self {
            layout,
            buffers: buffers
                .iter()
                .map(|bytes| AlignedBuffer::from_bytes(bytes))
                .collect(),
        })
    }

    fn dense(bytes: &[u8], rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        Self::new(Layout::Dense(Dense { rows, cols, dtype }), &[bytes])
    }
}

impl StoredTensor for Stored {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _context: CallContext) -> Result<()> {
        let Layout::Custom(custom) = &self.layout else {
            return layout::decode(&self.layout, &self.buffers(), first_row, out);
        };
        let mut values = vec![0.0; custom.cols];
        for row in 0..out.rows() {
            let after = (custom.rows - first_row - row) * custom.cols;
            let bytes = &self.buffers[0][(after - custom.cols) * 4..after * 4];
            widen(bytes, DType::F32, &mut values)?;
            values.reverse();
            out.write_row(row, &values)?;
        }
        Ok(())
    }

    fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(Error::Unsupported("a product of the tiny model's own".to_owned()))
    }
}
