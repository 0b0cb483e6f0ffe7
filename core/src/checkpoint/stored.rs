//! A checkpoint's weights as a mode stores them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use qbench_sdk::{
    AlignedBuffer, CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, QuantScheme, Result,
    StoredTensor, Weights,
    layout::{self, Dense},
    narrow, widen,
};

use super::ledger::{Lease, Ledger};
use super::parallel::fill_parts;
use super::tensor::TensorBytes;
use super::{Checkpoint, CheckpointError, MemoryUse, ModulePolicy, SourceTensor, TensorEntry, TensorRecord};

/// Elements that a thread converts at a time.
const BATCH: usize = 4096;
/// Rows of a weight on which a scheme with dense storage shows whether it changes values.
const PROBE_ROWS: usize = 16;

/// The weights of a checkpoint, quantised by a scheme when they are asked for.
///
/// * A weight that the policy selects goes through the scheme, into buffers of the scheme's layout. Where the run
///   computes in f16 or bf16 and the checkpoint has another type, the weight is first rounded to the run's type, as
///   transformers loads it; for f32 that would change nothing and is left out.
/// * Any other tensor is handed out as it lies in the mapped file, without a copy, whatever the run's type.
/// * So is a weight whose layout is dense in the source's own type, which by the meaning of that layout stores the
///   weight unchanged (`standard`). A scheme that changes values within the type is noticed by its result for the
///   first rows, and then fills its own buffer.
///
/// Nothing is kept here: memory of a tensor is freed when its holder drops it. While a tensor is made, its buffers and
/// at most one source (cast, or synthetic) are held besides what was handed out.
pub struct StoredWeights {
    checkpoint: Arc<Checkpoint>,
    scheme: Arc<dyn QuantScheme>,
    scheme_id: String,
    /// Layouts of the weights that the policy selects.
    layouts: BTreeMap<String, Layout>,
    compute: DType,
    threads: usize,
    ledger: Arc<Ledger>,
}

impl StoredWeights {
    /// Plans the storage of every weight; reads no data.
    ///
    /// `compute` is the run's precision; `threads` is the most that quantising one weight may use.
    ///
    /// # Errors
    /// [`CheckpointError::PatternWithoutMatch`], or [`CheckpointError::Scheme`] when the scheme cannot store a weight.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        scheme: Arc<dyn QuantScheme>,
        policy: &ModulePolicy,
        compute: DType,
        threads: usize,
    ) -> Result<Self, CheckpointError> {
        policy.check(checkpoint.entries())?;
        let scheme_id = scheme.info().id;
        let mut layouts = BTreeMap::new();
        for (name, entry) in checkpoint.entries() {
            let Some(stored) = entry.dtype.filter(|_| policy.quantises(name, entry)) else {
                continue;
            };
            let layout = plan(&*scheme, entry, quantised_from(stored, compute)).map_err(|source| {
                CheckpointError::Scheme {
                    scheme: scheme_id.clone(),
                    tensor: name.to_owned(),
                    rows: entry.rows(),
                    cols: entry.cols(),
                    dtype: quantised_from(stored, compute),
                    source,
                }
            })?;
            layouts.insert(name.to_owned(), layout);
        }
        Ok(Self {
            checkpoint,
            scheme,
            scheme_id,
            layouts,
            compute,
            threads: threads.max(1),
            ledger: Arc::default(),
        })
    }

    /// The checkpoint behind the weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Names and layouts of the weights that the mode stores, sorted by name.
    pub fn quantised(&self) -> impl ExactSizeIterator<Item = (&str, &Layout)> {
        self.layouts.iter().map(|(name, layout)| (name.as_str(), layout))
    }

    /// The layout of a weight that the mode stores.
    pub fn layout(&self, name: &str) -> Option<&Layout> {
        self.layouts.get(name)
    }

    /// The different layouts among the weights that the mode stores, each with the number of its weights, in the order
    /// of the first weight's name: what a backend is asked about before anything is loaded.
    pub fn layouts(&self) -> Vec<(Layout, usize)> {
        let mut distinct: Vec<(Layout, usize)> = Vec::new();
        for layout in self.layouts.values() {
            match distinct.iter_mut().find(|(known, _)| known == layout) {
                Some((_, count)) => *count += 1,
                None => distinct.push((layout.clone(), 1)),
            }
        }
        distinct
    }

    /// The CUDA kernel that the mode brings for one of its layouts.
    ///
    /// # Errors
    /// The scheme's.
    pub fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        self.scheme.cuda_kernel(layout)
    }

    /// Bytes of the tensors that are held now, and at most so far.
    pub fn memory(&self) -> MemoryUse {
        self.ledger.memory()
    }

    /// How each tensor that was asked for so far is stored, sorted by name.
    pub fn records(&self) -> Vec<TensorRecord> {
        self.ledger.records()
    }

    /// The weight as the scheme stores it, and the seconds that the scheme took.
    fn quantise(&self, source: SourceTensor, layout: &Layout) -> Result<(Vec<TensorBytes>, f64)> {
        let context = CallContext {
            threads: self.threads,
        };
        let dtype = quantised_from(source.dtype(), self.compute);
        let source = cast(source, dtype, self.threads)?;
        if is_dense(layout, source.dtype()) && keeps_values(&*self.scheme, source.matrix(), context)? {
            return Ok((vec![source.bytes], 0.0));
        }
        let mut buffers: Vec<AlignedBuffer> = layout
            .buffers()
            .iter()
            .map(|buffer| AlignedBuffer::zeroed(buffer.bytes))
            .collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut **buffer).collect();
        let start = Instant::now();
        self.scheme
            .quantize(source.matrix(), layout, &mut slices, context)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((buffers.into_iter().map(TensorBytes::Owned).collect(), seconds))
    }
}

impl Weights for StoredWeights {
    fn names(&self) -> Result<Vec<String>> {
        Ok(self
            .checkpoint
            .entries()
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        let source = self
            .checkpoint
            .tensor(name, self.threads)
            .map_err(CheckpointError::into_sdk)?;
        let (rows, cols, dtype) = (source.rows(), source.cols(), source.dtype());
        let source_bytes = source.bytes.len() as u64;
        let planned = self.layouts.get(name);
        let (layout, buffers, quantize_seconds) = match planned {
            Some(layout) => {
                let (buffers, seconds) = self
                    .quantise(source, layout)
                    .map_err(|error| in_context(error, &format!("mode {}, weight {name}", self.scheme_id)))?;
                (layout.clone(), buffers, seconds)
            }
            None => (
                Layout::Dense(Dense { rows, cols, dtype }),
                vec![source.bytes],
                0.0,
            ),
        };
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.ledger.record(TensorRecord {
            name: name.to_owned(),
            rows,
            cols,
            source: dtype,
            source_bytes,
            quantised: planned.is_some(),
            layout: layout.kind().to_owned(),
            bytes: bytes as u64,
            bits_per_weight: bytes as f64 * 8.0 / (rows * cols) as f64,
            quantize_seconds,
        });
        Ok(Box::new(Tensor {
            lease: self.ledger.hold(&buffers),
            scheme: planned.map(|_| Arc::clone(&self.scheme)),
            layout,
            buffers,
        }))
    }
}

/// A tensor that was handed out.
struct Tensor {
    layout: Layout,
    buffers: Vec<TensorBytes>,
    /// `None` for a tensor that the policy leaves alone.
    scheme: Option<Arc<dyn QuantScheme>>,
    #[expect(dead_code, reason = "dropping it is its use")]
    lease: Lease,
}

impl StoredTensor for Tensor {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| &**buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        match &self.scheme {
            Some(scheme) => scheme.dequantize(&self.layout, &self.buffers(), first_row, out, context),
            None => layout::decode(&self.layout, &self.buffers(), first_row, out),
        }
    }

    fn matmul(&self, input: Matrix<'_>, output: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        match &self.scheme {
            Some(scheme) => scheme.matmul(&self.layout, &self.buffers(), input, output, context),
            None => Err(Error::Unsupported(
                "a product with a weight that no scheme stored".to_owned(),
            )),
        }
    }

    fn cuda_kernel(&self) -> Result<Option<CudaKernel>> {
        self.scheme
            .as_ref()
            .map_or(Ok(None), |scheme| scheme.cuda_kernel(&self.layout))
    }
}

/// The type that a weight is quantised from, in a run of precision `compute`.
fn quantised_from(stored: DType, compute: DType) -> DType {
    if compute == DType::F32 { stored } else { compute }
}

fn plan(scheme: &dyn QuantScheme, entry: &TensorEntry, source: DType) -> Result<Layout> {
    let (rows, cols) = (entry.rows(), entry.cols());
    let layout = scheme.layout(rows, cols, source)?;
    layout.validate()?;
    if (layout.rows(), layout.cols()) == (rows, cols) {
        Ok(layout)
    } else {
        Err(Error::InvalidArgument(format!(
            "its layout is for {} x {} elements",
            layout.rows(),
            layout.cols()
        )))
    }
}

/// Rounds a tensor to `dtype` (nearest even), through f32, which holds every value of the other types.
fn cast(source: SourceTensor, dtype: DType, threads: usize) -> Result<SourceTensor> {
    let from = source.dtype();
    if from == dtype {
        return Ok(source);
    }
    if !(from.is_float() && dtype.is_float()) {
        return Err(Error::Unsupported(format!("rounding {from} to {dtype}")));
    }
    let mut bytes = AlignedBuffer::zeroed(source.rows() * source.cols() * dtype.size());
    fill_parts(&mut bytes, BATCH * dtype.size(), threads, |offset, part| {
        let mut values = [0.0; BATCH];
        let mut at = offset / dtype.size() * from.size();
        for part in part.chunks_mut(BATCH * dtype.size()) {
            let values = &mut values[..part.len() / dtype.size()];
            let end = at + values.len() * from.size();
            widen(&source.bytes[at..end], from, values).expect("a float type, checked above");
            narrow(values, dtype, part).expect("a float type, checked above");
            at = end;
        }
    });
    Ok(SourceTensor::new(
        TensorBytes::Owned(bytes),
        source.rows(),
        source.cols(),
        dtype,
    ))
}

fn is_dense(layout: &Layout, dtype: DType) -> bool {
    matches!(layout, Layout::Dense(dense) if dense.dtype == dtype)
}

/// Whether a scheme that stores `source` densely in its own type leaves its first rows as they are.
fn keeps_values(scheme: &dyn QuantScheme, source: Matrix<'_>, context: CallContext) -> Result<bool> {
    let rows = source.rows().min(PROBE_ROWS);
    let bytes = &source.data()[..rows * source.row_stride()];
    let layout = scheme.layout(rows, source.cols(), source.dtype())?;
    if !is_dense(&layout, source.dtype()) {
        return Ok(false);
    }
    let mut stored = AlignedBuffer::zeroed(bytes.len());
    let probe = Matrix::new(bytes, rows, source.cols(), source.dtype())?;
    scheme.quantize(probe, &layout, &mut [&mut *stored], context)?;
    Ok(*stored == *bytes)
}

/// The same error, saying where it happened.
fn in_context(error: Error, place: &str) -> Error {
    let located = |message: String| format!("{place}: {message}");
    match error {
        Error::Unsupported(message) => Error::Unsupported(located(message)),
        Error::InvalidArgument(message) => Error::InvalidArgument(located(message)),
        Error::NotFound(message) => Error::NotFound(located(message)),
        Error::OutOfMemory(message) => Error::OutOfMemory(located(message)),
        Error::Panic(message) => Error::Panic(located(message)),
        other => Error::Internal(located(other.to_string())),
    }
}
