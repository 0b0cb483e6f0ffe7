//! Requests that break the contract, or that no scheme can serve.

use super::{SchemeSubject, Source, store};
use crate::{
    CallContext, DType, Layout, Matrix, MatrixMut, QuantScheme,
    conformance::report::{Broken, Ended, Outcome, Verdict, attempt},
    layout::Dense,
};

/// What must not panic. A `Done` is fine where `may_work`.
fn refused<T>(what: &str, may_work: bool, body: impl FnOnce() -> crate::Result<T>) -> Result<(), Broken> {
    match attempt(body) {
        Ended::Refused(_) => Ok(()),
        Ended::Done(_) if may_work => Ok(()),
        Ended::Done(_) => Err(Broken(format!("{what} is not refused"))),
        Ended::Panicked(message) => Err(Broken(format!("{what} panics: {message}; return an error"))),
    }
}

pub(super) fn errors_not_panics(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let scheme = scheme.as_ref();
    for (rows, cols) in [
        (0, 0),
        (0, 64),
        (64, 0),
        (1, usize::MAX),
        (usize::MAX, usize::MAX),
        (1 << 40, 1 << 40),
    ] {
        let what = format!("the layout of a {rows} x {cols} matrix");
        let layout = std::cell::OnceCell::new();
        refused(&what, true, || {
            scheme
                .layout(rows, cols, DType::F32)
                .map(|it| drop(layout.set(it)))
        })?;
        if let Some(error) = layout.get().and_then(|layout| layout.validate().err()) {
            return Err(Broken(format!("{what} is given, but impossible: {error}")));
        }
        if layout.get().is_some() && (rows == 0 || cols == 0) {
            let empty = Source::new(&[], rows, cols, DType::F32)?;
            refused(&format!("storing a {rows} x {cols} matrix"), true, || {
                Ok(store(scheme, &empty, 1))
            })?;
        }
    }
    for dtype in [DType::U8, DType::I8] {
        let bytes = [1_u8; 64];
        refused(&format!("a matrix of {dtype}"), true, || {
            let layout = scheme.layout(1, 64, dtype)?;
            let mut buffers: Vec<Vec<u8>> = layout.buffers().iter().map(|spec| vec![0; spec.bytes]).collect();
            let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            let matrix = Matrix::new(&bytes, 1, 64, dtype)?;
            scheme.quantize(matrix, &layout, &mut slices, CallContext::single_threaded())
        })?;
    }
    wrong_buffers(scheme)
}

fn wrong_buffers(scheme: &dyn QuantScheme) -> Outcome {
    let source = Source::random((16, 256), DType::F32)?;
    let Some(stored) = store(scheme, &source, 1)? else {
        return Ok((Verdict::Skip, format!("{} is not stored", source.name())));
    };
    let (layout, context) = (&stored.layout, CallContext::single_threaded());
    let mut bytes = vec![0; 16 * 256 * 4];
    let mut wide = vec![0; 16 * 257 * 4];
    let slices = stored.slices();
    let mut short = slices.clone();
    if let Some(first) = short.first_mut() {
        *first = &first[..first.len() / 2];
    }
    let other = Layout::Dense(Dense {
        rows: 3,
        cols: 5,
        dtype: DType::F32,
    });
    let mut dequantize = |what: &str, layout: &Layout, buffers: &[&[u8]], first: usize, cols: usize| {
        refused(what, false, || {
            let bytes = if cols == 256 { &mut bytes } else { &mut wide };
            scheme.dequantize(
                layout,
                buffers,
                first,
                &mut MatrixMut::new(bytes, 16, cols, DType::F32)?,
                context,
            )
        })
    };
    dequantize("dequantising with no buffers", layout, &[], 0, 256)?;
    dequantize("dequantising with half of a buffer", layout, &short, 0, 256)?;
    dequantize("dequantising rows past the end", layout, &slices, 9, 256)?;
    dequantize(
        "dequantising rows far past the end",
        layout,
        &slices,
        usize::MAX - 3,
        256,
    )?;
    dequantize("dequantising into more columns", layout, &slices, 0, 257)?;
    dequantize("dequantising another layout", &other, &slices, 0, 256)?;
    refused("quantising into no buffers", false, || {
        scheme.quantize(source.matrix()?, layout, &mut [], context)
    })?;
    refused("quantising into half of a buffer", false, || {
        let mut buffers: Vec<Vec<u8>> = short.iter().map(|bytes| vec![0; bytes.len()]).collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        scheme.quantize(source.matrix()?, layout, &mut slices, context)
    })?;
    let x = vec![0; 2 * 255 * 4];
    let mut y = vec![0; 2 * 16 * 4];
    refused("a product of 255 columns with a matrix of 256", false, || {
        let input = Matrix::new(&x, 2, 255, DType::F32)?;
        scheme.matmul(
            layout,
            &slices,
            input,
            &mut MatrixMut::new(&mut y, 2, 16, DType::F32)?,
            context,
        )
    })?;
    Ok((Verdict::Pass, String::new()))
}
