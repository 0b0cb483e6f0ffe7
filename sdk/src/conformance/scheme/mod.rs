//! Cases for schemes.

mod description;
mod product;
mod reading;
mod refusal;
mod storing;

use super::{
    guarded::Guarded,
    random::Random,
    report::{Broken, Case, Outcome},
};
use crate::{
    AlignedBuffer, CallContext, DType, Error, Layout, Matrix, MatrixMut, Options, QuantScheme, Result,
    narrow, widen,
};

/// Rows and columns of test matrices: single elements, rows that fill no byte and no block, odd numbers of both.
const SHAPES: [(usize, usize); 9] = [
    (1, 1),
    (2, 1),
    (1, 7),
    (3, 65),
    (5, 33),
    (2, 31),
    (7, 100),
    (3, 128),
    (16, 256),
];

/// A matrix that is worth several threads.
const LARGE: (usize, usize) = (96, 1024);

/// Size of the weights of a typical model.
const DEVIATION: f64 = 0.05;

/// The float types that weights are stored in.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

type Open = dyn Fn(&Options) -> Result<Box<dyn QuantScheme>>;

/// A scheme as it is opened.
pub struct SchemeSubject {
    open: Box<Open>,
    options: Options,
}

impl SchemeSubject {
    /// The scheme that `open` opens; `options` are the user's.
    pub fn new(open: impl Fn(&Options) -> Result<Box<dyn QuantScheme>> + 'static, options: Options) -> Self {
        Self {
            open: Box::new(open),
            options,
        }
    }

    fn open(&self) -> Result<Box<dyn QuantScheme>> {
        (self.open)(&self.options)
    }
}

/// All cases for schemes, in the order in which they are best read.
pub fn scheme_cases() -> &'static [Case<SchemeSubject>] {
    &CASES
}

const fn case(
    name: &'static str,
    description: &'static str,
    run: fn(&SchemeSubject) -> Outcome,
) -> Case<SchemeSubject> {
    Case {
        name,
        description,
        run,
    }
}

static CASES: [Case<SchemeSubject>; 18] = [
    case(
        "describes-itself",
        "id, summary and options are there and can be typed",
        description::describes_itself,
    ),
    case(
        "options-round-trip",
        "a default that is typed changes nothing; an unknown option is refused",
        description::options_round_trip,
    ),
    case(
        "layout-is-pure",
        "the same shape gives the same layout, of that shape, which survives JSON",
        storing::layout_is_pure,
    ),
    case(
        "declared-sizes",
        "the buffers hold the matrix, and are not larger than it",
        storing::declared_sizes,
    ),
    case(
        "buffers-not-overrun",
        "nothing but the buffers and the output is written",
        storing::buffers_not_overrun,
    ),
    case(
        "quantize-deterministic",
        "the same matrix gives the same bytes",
        storing::quantize_deterministic,
    ),
    case(
        "threads-1-equals-n",
        "the number of threads changes no byte",
        storing::threads_change_nothing,
    ),
    case(
        "concurrent-calls",
        "calls from several threads at once do not disturb each other",
        storing::concurrent_calls,
    ),
    case(
        "strided-source",
        "rows with gaps between them give the same bytes",
        storing::strided_source,
    ),
    case(
        "decode-equals-dequantize",
        "the sdk's decoder of the described layout gives the same bits",
        reading::decode_equals_dequantize,
    ),
    case(
        "row-ranges",
        "any rows are those of the whole matrix; gaps between rows stay untouched",
        reading::row_ranges,
    ),
    case(
        "rounds-once",
        "f16 and bf16 are the f32 values, rounded once",
        reading::rounds_once,
    ),
    case(
        "odd-shapes",
        "matrices that fill no block are stored as well as others",
        reading::odd_shapes,
    ),
    case(
        "reconstruction",
        "what is stored resembles the weights",
        reading::reconstruction,
    ),
    case(
        "zeros-and-extremes",
        "zeros stay zeros; tiny weights stay numbers",
        reading::zeros_and_extremes,
    ),
    case(
        "not-finite",
        "NaN and infinities are stored or refused, and spoil no other row",
        reading::not_finite,
    ),
    case(
        "matmul-equals-dequantized",
        "a product of the scheme's own is that of the dequantised weights",
        product::matmul_equals_dequantized,
    ),
    case(
        "errors-not-panics",
        "what cannot be done is answered with an error",
        refusal::errors_not_panics,
    ),
];

/// A matrix to be stored.
struct Source {
    rows: usize,
    cols: usize,
    dtype: DType,
    bytes: Vec<u8>,
}

impl Source {
    fn new(values: &[f32], rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(values, dtype, &mut bytes)?;
        Ok(Self {
            rows,
            cols,
            dtype,
            bytes,
        })
    }

    fn random((rows, cols): (usize, usize), dtype: DType) -> Result<Self> {
        let seed = (rows * 1000 + cols) as u64;
        let values = Random::new(seed).normal(rows * cols, DEVIATION);
        Self::new(&values, rows, cols, dtype)
    }

    fn matrix(&self) -> Result<Matrix<'_>> {
        Matrix::new(&self.bytes, self.rows, self.cols, self.dtype)
    }

    fn values(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.rows * self.cols];
        widen(&self.bytes, self.dtype, &mut values)?;
        Ok(values)
    }

    /// In words.
    fn name(&self) -> String {
        format!("a {} x {} matrix of {}", self.rows, self.cols, self.dtype)
    }
}

/// A stored matrix.
struct Stored {
    layout: Layout,
    buffers: Vec<Guarded>,
}

impl Stored {
    fn slices(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(Guarded::bytes).collect()
    }

    /// Whether both hold the same bytes.
    fn same(&self, other: &Self) -> Option<String> {
        let names = self.layout.buffers();
        let pairs = self.slices().into_iter().zip(other.slices());
        pairs.zip(names).find_map(|((one, other), spec)| {
            let at = one.iter().zip(other).position(|(one, other)| one != other)?;
            Some(format!("buffer `{}` differs from byte {at} on", spec.name))
        })
    }
}

/// Says what was done when it went wrong.
trait While<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Broken>;
}

impl<T> While<T> for Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Broken> {
        self.map_err(|error| Broken(format!("{}: {error}", what())))
    }
}

/// Stores a matrix, or gives `None` for a shape or type that the scheme does not store.
fn store(scheme: &dyn QuantScheme, source: &Source, threads: usize) -> Result<Option<Stored>, Broken> {
    store_matrix(scheme, source.matrix()?, threads)
}

fn store_matrix(
    scheme: &dyn QuantScheme,
    matrix: Matrix<'_>,
    threads: usize,
) -> Result<Option<Stored>, Broken> {
    let what = || {
        format!(
            "a {} x {} matrix of {}",
            matrix.rows(),
            matrix.cols(),
            matrix.dtype()
        )
    };
    let layout = match scheme.layout(matrix.rows(), matrix.cols(), matrix.dtype()) {
        Err(Error::Unsupported(_)) => return Ok(None),
        layout => layout.during(|| format!("the layout of {}", what()))?,
    };
    layout.validate()?;
    let sizes = layout.buffers();
    let mut buffers: Vec<Guarded> = sizes.iter().map(|spec| Guarded::filled(spec.bytes, 0)).collect();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Guarded::bytes_mut).collect();
    scheme
        .quantize(matrix, &layout, &mut slices, CallContext { threads })
        .during(|| format!("quantising {}", what()))?;
    Ok(Some(Stored { layout, buffers }))
}

/// Rows of a stored matrix as bytes of `dtype`.
fn read(
    scheme: &dyn QuantScheme,
    stored: &Stored,
    rows: std::ops::Range<usize>,
    dtype: DType,
    threads: usize,
) -> Result<AlignedBuffer, Broken> {
    let cols = stored.layout.cols();
    let mut bytes = AlignedBuffer::zeroed(rows.len() * cols * dtype.size());
    // A value that is not written is not zero.
    bytes.fill(0xff);
    let mut out = MatrixMut::new(&mut bytes, rows.len(), cols, dtype)?;
    scheme
        .dequantize(
            &stored.layout,
            &stored.slices(),
            rows.start,
            &mut out,
            CallContext { threads },
        )
        .during(|| format!("rows {rows:?} of {cols} columns as {dtype}"))?;
    Ok(bytes)
}

/// All of a stored matrix as floats.
fn read_all(scheme: &dyn QuantScheme, stored: &Stored) -> Result<Vec<f32>, Broken> {
    let bytes = read(scheme, stored, 0..stored.layout.rows(), DType::F32, 1)?;
    let mut values = vec![0.0; bytes.len() / 4];
    widen(&bytes, DType::F32, &mut values)?;
    Ok(values)
}

/// The matrices of [`SHAPES`] that the scheme stores.
fn stored_shapes(scheme: &dyn QuantScheme, dtype: DType) -> Result<Vec<(Source, Stored)>, Broken> {
    let mut all = Vec::new();
    for shape in SHAPES {
        let source = Source::random(shape, dtype)?;
        if let Some(stored) = store(scheme, &source, 1)? {
            all.push((source, stored));
        }
    }
    if all.is_empty() {
        return Err(Broken(format!(
            "no matrix of {dtype} is stored, whatever its shape; tried up to 16 x 256"
        )));
    }
    Ok(all)
}
