//! Layouts, and what fills them.

use super::{
    DEVIATION, FLOATS, LARGE, SHAPES, SchemeSubject, Source, Stored, While, read, store, store_matrix,
    stored_shapes,
};
use crate::{
    CallContext, DType, Error, Layout, Matrix, MatrixMut, QuantScheme,
    conformance::{
        guarded::Guarded,
        random::Random,
        report::{Broken, Outcome, Verdict, pass},
    },
};

pub(super) fn layout_is_pure(subject: &SchemeSubject) -> Outcome {
    let (scheme, other) = (subject.open()?, subject.open()?);
    for (rows, cols) in SHAPES.into_iter().chain([LARGE, (4096, 11008)]) {
        for dtype in FLOATS {
            let what = format!("the layout of a {rows} x {cols} matrix of {dtype}");
            let layout = match scheme.layout(rows, cols, dtype) {
                Err(Error::Unsupported(_)) => continue,
                layout => layout.during(|| what.clone())?,
            };
            if (layout.rows(), layout.cols()) != (rows, cols) {
                return Err(Broken(format!(
                    "{what} is of {} x {}",
                    layout.rows(),
                    layout.cols()
                )));
            }
            for again in [scheme.layout(rows, cols, dtype), other.layout(rows, cols, dtype)] {
                if again.during(|| what.clone())? != layout {
                    return Err(Broken(format!("{what} is not the same each time")));
                }
            }
            if Layout::from_json(&layout.to_json()?).during(|| what.clone())? != layout {
                return Err(Broken(format!("{what} is another one after a way through JSON")));
            }
        }
    }
    pass()
}

pub(super) fn declared_sizes(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let source = Source::random(LARGE, DType::F32)?;
    let Some(stored) = store(scheme.as_ref(), &source, 1)? else {
        return Ok((Verdict::Skip, format!("{} is not stored", source.name())));
    };
    let bits = stored.layout.bytes() as f64 * 8.0 / (source.rows * source.cols) as f64;
    for (spec, bytes) in stored.layout.buffers().iter().zip(stored.slices()) {
        // A byte is zero here and there; a whole buffer is not.
        if bytes.len() >= 64 && bytes.iter().all(|byte| *byte == 0) {
            return Ok((
                Verdict::Warn,
                format!(
                    "buffer `{}` of {} bytes is still all zeros",
                    spec.name, spec.bytes
                ),
            ));
        }
    }
    if bits > 32.0 {
        return Ok((Verdict::Warn, format!("{bits:.3} bits a weight: more than f32")));
    }
    Ok((
        Verdict::Pass,
        format!("{bits:.3} bits a weight ({})", stored.layout.kind()),
    ))
}

pub(super) fn buffers_not_overrun(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for (source, stored) in stored_shapes(scheme.as_ref(), DType::F32)? {
        for (spec, buffer) in stored.layout.buffers().iter().zip(&stored.buffers) {
            buffer.check(&format!(
                "buffer `{}` while it stored {}",
                spec.name,
                source.name()
            ))?;
        }
        inputs_untouched(scheme.as_ref(), &source, &stored)?;
    }
    pass()
}

/// Reads and multiplies with guards around the output, and compares all inputs with what they were.
fn inputs_untouched(scheme: &dyn QuantScheme, source: &Source, stored: &Stored) -> Result<(), Broken> {
    let (rows, cols) = (source.rows, source.cols);
    let copy: Vec<Vec<u8>> = stored.slices().iter().map(|bytes| bytes.to_vec()).collect();
    let guarded = Guarded::with(&source.bytes);
    store_matrix(scheme, Matrix::new(guarded.bytes(), rows, cols, source.dtype)?, 1)?;
    guarded.check("the weights that it was to store")?;
    if guarded.bytes() != source.bytes {
        return Err(Broken(format!(
            "changed the weights that it was to store ({})",
            source.name()
        )));
    }
    let mut output = Guarded::filled(rows * cols * 4, 0);
    let context = CallContext::single_threaded();
    let mut out = MatrixMut::new(output.bytes_mut(), rows, cols, DType::F32)?;
    scheme.dequantize(&stored.layout, &stored.slices(), 0, &mut out, context)?;
    output.check(&format!("the output while it dequantised {}", source.name()))?;
    let tokens = 3;
    let input = Random::new(3).normal(tokens * cols, 1.0);
    let input = Guarded::with(
        &input
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>(),
    );
    let before = input.bytes().to_vec();
    let mut output = Guarded::filled(tokens * rows * 4, 0);
    let mut out = MatrixMut::new(output.bytes_mut(), tokens, rows, DType::F32)?;
    let x = Matrix::new(input.bytes(), tokens, cols, DType::F32)?;
    match scheme.matmul(&stored.layout, &stored.slices(), x, &mut out, context) {
        Ok(()) | Err(Error::Unsupported(_)) => {}
        Err(other) => return Err(other.into()),
    }
    output.check("the output of its product")?;
    input.check("the input of its product")?;
    if input.bytes() != before {
        return Err(Broken("its product changed its input".to_owned()));
    }
    if stored.slices() != copy.iter().map(Vec::as_slice).collect::<Vec<_>>() {
        return Err(Broken("reading changed a buffer".to_owned()));
    }
    Ok(())
}

pub(super) fn quantize_deterministic(subject: &SchemeSubject) -> Outcome {
    let (scheme, other) = (subject.open()?, subject.open()?);
    for (source, stored) in stored_shapes(scheme.as_ref(), DType::F32)? {
        for scheme in [&scheme, &other] {
            let again = store(scheme.as_ref(), &source, 1)?;
            let different = again.and_then(|again| again.same(&stored));
            if let Some(different) = different {
                return Err(Broken(format!("{} stored twice: {different}", source.name())));
            }
        }
    }
    pass()
}

pub(super) fn threads_change_nothing(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for shape in [LARGE, (7, 100), (1, 4096)] {
        let source = Source::random(shape, DType::F32)?;
        let Some(one) = store(scheme.as_ref(), &source, 1)? else {
            continue;
        };
        let rows = 0..source.rows;
        let read_one = read(scheme.as_ref(), &one, rows.clone(), DType::F32, 1)?;
        for threads in [2, 7] {
            let many = store(scheme.as_ref(), &source, threads)?;
            if let Some(different) = many.and_then(|many| many.same(&one)) {
                return Err(Broken(format!(
                    "{} stored with {threads} threads: {different}",
                    source.name()
                )));
            }
            if read(scheme.as_ref(), &one, rows.clone(), DType::F32, threads)?[..] != read_one[..] {
                return Err(Broken(format!(
                    "{} read with {threads} threads differs",
                    source.name()
                )));
            }
        }
    }
    pass()
}

pub(super) fn concurrent_calls(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let shapes = [LARGE, (64, 512), (32, 768), (128, 256)];
    let mut alone = Vec::new();
    for shape in shapes {
        let source = Source::random(shape, DType::F32)?;
        let stored = store(scheme.as_ref(), &source, 1)?;
        alone.extend(stored.map(|stored| (source, stored)));
    }
    let scheme = scheme.as_ref();
    std::thread::scope(|scope| {
        let calls: Vec<_> = alone
            .iter()
            .map(|(source, alone)| {
                scope.spawn(move || -> Result<(), Broken> {
                    let expected = super::read_all(scheme, alone)?;
                    for _ in 0..3 {
                        let together = store(scheme, source, 1)?;
                        let Some(together) = together else { continue };
                        if let Some(different) = together.same(alone) {
                            return Err(Broken(format!(
                                "beside other calls, {}: {different}",
                                source.name()
                            )));
                        }
                        let bits =
                            |values: Vec<f32>| -> Vec<u32> { values.into_iter().map(f32::to_bits).collect() };
                        if bits(super::read_all(scheme, &together)?) != bits(expected.clone()) {
                            return Err(Broken(format!(
                                "beside other calls, {} reads differently",
                                source.name()
                            )));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        calls.into_iter().try_for_each(|call| match call.join() {
            Ok(result) => result,
            Err(payload) => std::panic::resume_unwind(payload),
        })
    })?;
    pass()
}

pub(super) fn strided_source(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for (rows, cols) in SHAPES {
        let values = Random::new(5).normal(rows * cols, DEVIATION);
        let source = Source::new(&values, rows, cols, DType::F32)?;
        let Some(stored) = store(scheme.as_ref(), &source, 1)? else {
            continue;
        };
        let row = cols * 4;
        // The gaps hold NaN, which would be seen in every scale.
        let mut gaps = vec![0xff; rows * (row + 12)];
        for (gap, values) in gaps
            .chunks_exact_mut(row + 12)
            .zip(source.bytes.chunks_exact(row))
        {
            gap[..row].copy_from_slice(values);
        }
        let matrix = Matrix::with_stride(&gaps, rows, cols, row + 12, DType::F32)?;
        let again = store_matrix(scheme.as_ref(), matrix, 1)?;
        if let Some(different) = again.and_then(|again| again.same(&stored)) {
            return Err(Broken(format!(
                "{} with 12 bytes between rows: {different}",
                source.name()
            )));
        }
    }
    pass()
}
