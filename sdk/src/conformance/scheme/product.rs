//! A scheme's own product.

use super::{DEVIATION, FLOATS, LARGE, SHAPES, SchemeSubject, Source, Stored, While, read_all, store};
use crate::{
    CallContext, DType, Error, Matrix, MatrixMut, QuantScheme,
    conformance::{
        random::Random,
        report::{Broken, Outcome, Verdict, pass},
    },
    narrow, widen,
};

/// f32 sums of a thousand products differ by less, as a share of the sum of magnitudes.
const SUMMING: f64 = 1e-5;

/// More than this is another product, whatever was quantised.
const ANOTHER: f64 = 0.1;

pub(super) fn matmul_equals_dequantized(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let mut worst = 0.0_f64;
    for shape in SHAPES.into_iter().chain([LARGE]) {
        let source = Source::random(shape, DType::F32)?;
        let Some(stored) = store(scheme.as_ref(), &source, 1)? else {
            continue;
        };
        let weights = read_all(scheme.as_ref(), &stored)?;
        for tokens in [1, 3, 17] {
            for dtype in FLOATS {
                let x = Input::new(tokens, source.cols, dtype)?;
                match product(scheme.as_ref(), &stored, &x, 2)? {
                    None => return Ok((Verdict::Skip, "no product of its own".to_owned())),
                    Some(found) => worst = worst.max(distance(&found, &x.values, &weights, source.cols)),
                }
            }
        }
    }
    let found = format!("largest error {worst:.2e} of the sum of magnitudes");
    if worst.is_nan() || worst > ANOTHER {
        Err(Broken(format!(
            "{found}: this is not the product with the dequantised weights"
        )))
    } else if worst > SUMMING {
        Ok((
            Verdict::Warn,
            format!("{found}: more than the order of sums explains; fine if activations are quantised, too"),
        ))
    } else if worst == 0.0 {
        pass()
    } else {
        Ok((Verdict::Pass, found))
    }
}

struct Input {
    tokens: usize,
    cols: usize,
    dtype: DType,
    bytes: Vec<u8>,
    /// What the bytes stand for.
    values: Vec<f32>,
}

impl Input {
    fn new(tokens: usize, cols: usize, dtype: DType) -> crate::Result<Self> {
        let mut values = Random::new(tokens as u64).normal(tokens * cols, 1.0 / DEVIATION);
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(&values, dtype, &mut bytes)?;
        widen(&bytes, dtype, &mut values)?;
        Ok(Self {
            tokens,
            cols,
            dtype,
            bytes,
            values,
        })
    }
}

/// The scheme's product as f32, into rows with gaps between them.
fn product(
    scheme: &dyn QuantScheme,
    stored: &Stored,
    x: &Input,
    threads: usize,
) -> Result<Option<Vec<f32>>, Broken> {
    const GAP: usize = 8;
    let rows = stored.layout.rows();
    let row = rows * 4;
    // NaN: an output that is added to instead of overwritten is seen.
    let mut bytes = vec![0xff; x.tokens * (row + GAP)];
    let mut out = MatrixMut::with_stride(&mut bytes, x.tokens, rows, row + GAP, DType::F32)?;
    let input = Matrix::new(&x.bytes, x.tokens, x.cols, x.dtype)?;
    match scheme.matmul(
        &stored.layout,
        &stored.slices(),
        input,
        &mut out,
        CallContext { threads },
    ) {
        Err(Error::Unsupported(_)) => return Ok(None),
        done => done.during(|| {
            format!(
                "a product of {} tokens in {} with a {rows} x {} matrix",
                x.tokens, x.dtype, x.cols
            )
        })?,
    }
    let mut values = vec![0.0; x.tokens * rows];
    for (values, bytes) in values.chunks_exact_mut(rows).zip(bytes.chunks_exact(row + GAP)) {
        widen(&bytes[..row], DType::F32, values)?;
        if bytes[row..].iter().any(|byte| *byte != 0xff) {
            return Err(Broken(
                "its product wrote between the rows of the output".to_owned(),
            ));
        }
    }
    Ok(Some(values))
}

/// The largest difference from the product in f64, as a share of the sum of the magnitudes that were added.
fn distance(found: &[f32], x: &[f32], weights: &[f32], cols: usize) -> f64 {
    let rows = weights.len() / cols;
    let mut worst = 0.0_f64;
    for (x, found) in x.chunks_exact(cols).zip(found.chunks_exact(rows)) {
        for (weights, found) in weights.chunks_exact(cols).zip(found) {
            let products = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let error = (f64::from(*found) - sum).abs();
            let share = if error == 0.0 { 0.0 } else { error / size };
            // A NaN stays the worst.
            worst = if worst.is_nan() || share.is_nan() {
                f64::NAN
            } else {
                worst.max(share)
            };
        }
    }
    worst
}
