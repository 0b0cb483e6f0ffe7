//! What comes back from the buffers.

use super::{
    DEVIATION, FLOATS, LARGE, SchemeSubject, Source, Stored, While, read, read_all, store, stored_shapes,
};
use crate::{
    CallContext, DType, Error, Layout, MatrixMut, QuantScheme,
    conformance::{
        random::Random,
        report::{Broken, Outcome, Verdict, pass},
    },
    layout, narrow,
};

/// Relative error (root mean square) from which storing zeros would be better.
const WORSE_THAN_ZEROS: f64 = 1.0;

/// Relative error of one sign and one mean magnitude a block of normal weights is √(1 − 2/π) = 0.60; what is above is
/// rarely meant.
const SURPRISING: f64 = 0.7;

/// The root mean square of the error, as a share of that of the weights.
fn relative_error(values: &[f32], truth: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |sum, value| sum + value * value);
    let error = squares(
        &mut values
            .iter()
            .zip(truth)
            .map(|(v, t)| f64::from(*v) - f64::from(*t)),
    );
    let size = squares(&mut truth.iter().map(|value| f64::from(*value)));
    (error / size).sqrt()
}

pub(super) fn decode_equals_dequantize(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for (source, stored) in stored_shapes(scheme.as_ref(), DType::F32)? {
        if let Layout::Custom(custom) = &stored.layout {
            return Ok((
                Verdict::Skip,
                format!("layout {} is the scheme's own", custom.kind),
            ));
        }
        for dtype in FLOATS {
            let own = read(scheme.as_ref(), &stored, 0..source.rows, dtype, 1)?;
            let mut decoded = vec![0; own.len()];
            let mut out = MatrixMut::new(&mut decoded, source.rows, source.cols, dtype)?;
            layout::decode(&stored.layout, &stored.slices(), 0, &mut out)?;
            if own[..] != decoded[..] {
                return Err(Broken(format!(
                    "{}: `dequantize` to {dtype} differs from the layout's own decoder; backends use the latter",
                    source.name()
                )));
            }
        }
    }
    pass()
}

pub(super) fn row_ranges(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for (source, stored) in stored_shapes(scheme.as_ref(), DType::F32)? {
        let rows = source.rows;
        for dtype in FLOATS {
            let whole = read(scheme.as_ref(), &stored, 0..rows, dtype, 1)?;
            let row = source.cols * dtype.size();
            for range in [
                0..0,
                0..1,
                rows - 1..rows,
                rows / 2..rows,
                rows / 3..rows.div_ceil(2),
            ] {
                let part = read(scheme.as_ref(), &stored, range.clone(), dtype, 1)?;
                if part[..] != whole[range.start * row..range.end * row] {
                    return Err(Broken(format!(
                        "rows {range:?} of {} differ from the whole's",
                        source.name()
                    )));
                }
            }
            gaps_stay(scheme.as_ref(), &stored, dtype, &whole)?;
        }
    }
    pass()
}

/// Reads into rows with gaps between them.
fn gaps_stay(scheme: &dyn QuantScheme, stored: &Stored, dtype: DType, whole: &[u8]) -> Result<(), Broken> {
    const GAP: usize = 12;
    const UNTOUCHED: u8 = 0x5a;
    let (rows, cols) = (stored.layout.rows(), stored.layout.cols());
    let row = cols * dtype.size();
    let mut bytes = vec![UNTOUCHED; rows * (row + GAP)];
    let mut out = MatrixMut::with_stride(&mut bytes, rows, cols, row + GAP, dtype)?;
    scheme
        .dequantize(
            &stored.layout,
            &stored.slices(),
            0,
            &mut out,
            CallContext::single_threaded(),
        )
        .during(|| format!("an output of {rows} x {cols} {dtype} with gaps between rows"))?;
    for (found, expected) in bytes.chunks_exact(row + GAP).zip(whole.chunks_exact(row)) {
        if found[..row] != *expected {
            return Err(Broken(
                "rows with gaps between them are read differently".to_owned(),
            ));
        }
        if found[row..].iter().any(|byte| *byte != UNTOUCHED) {
            return Err(Broken("wrote between the rows of an output".to_owned()));
        }
    }
    Ok(())
}

pub(super) fn rounds_once(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for (source, stored) in stored_shapes(scheme.as_ref(), DType::F32)? {
        let values = read_all(scheme.as_ref(), &stored)?;
        for dtype in [DType::F16, DType::BF16] {
            let own = read(scheme.as_ref(), &stored, 0..source.rows, dtype, 1)?;
            let mut rounded = vec![0; own.len()];
            narrow(&values, dtype, &mut rounded)?;
            if own[..] != rounded[..] {
                return Err(Broken(format!(
                    "{}: {dtype} is not f32 rounded to nearest",
                    source.name()
                )));
            }
        }
    }
    pass()
}

pub(super) fn odd_shapes(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    for (source, stored) in stored_shapes(scheme.as_ref(), DType::F32)? {
        let error = relative_error(&read_all(scheme.as_ref(), &stored)?, &source.values()?);
        if error.is_nan() || error >= WORSE_THAN_ZEROS {
            return Err(Broken(format!(
                "{}: what is read has a relative error of {error:.3}; zeros would be as near",
                source.name()
            )));
        }
    }
    pass()
}

pub(super) fn reconstruction(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let mut worst = 0.0_f64;
    for dtype in FLOATS {
        let source = Source::random(LARGE, dtype)?;
        if let Some(stored) = store(scheme.as_ref(), &source, 1)? {
            worst = worst.max(relative_error(
                &read_all(scheme.as_ref(), &stored)?,
                &source.values()?,
            ));
        }
    }
    let found = format!("relative error of normal weights {worst:.5} (root mean square)");
    if worst.is_nan() || worst >= WORSE_THAN_ZEROS {
        Err(Broken(format!("{found}: zeros would be as near")))
    } else if worst > SURPRISING {
        Ok((Verdict::Warn, found))
    } else {
        Ok((Verdict::Pass, found))
    }
}

pub(super) fn zeros_and_extremes(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let (rows, cols) = (4, 256);
    let mut warning = None;
    let mut random = Random::new(9);
    let tiny: Vec<f32> = random
        .normal(rows * cols, 1.0)
        .iter()
        .map(|v| v * 1e-40)
        .collect();
    let huge: Vec<f32> = random
        .normal(rows * cols, 1.0)
        .iter()
        .map(|v| v.signum() * 3e38)
        .collect();
    let mut mixed = random.normal(rows * cols, DEVIATION);
    mixed[300] = f32::MAX;
    mixed[700] = f32::MIN_POSITIVE / 4.0;
    for (what, values) in [
        ("zeros", vec![0.0; rows * cols]),
        ("subnormal weights", tiny),
        ("weights of 3e38", huge),
        ("one weight of 3.4e38", mixed),
    ] {
        let source = Source::new(&values, rows, cols, DType::F32)?;
        let Some(stored) = store(scheme.as_ref(), &source, 1)? else {
            return Ok((Verdict::Skip, format!("{} is not stored", source.name())));
        };
        let read = read_all(scheme.as_ref(), &stored)?;
        if what == "zeros" && read.iter().any(|value| *value != 0.0) {
            return Err(Broken("a matrix of zeros does not come back as zeros".to_owned()));
        }
        let nan = read.iter().any(|value| value.is_nan());
        if nan && what == "subnormal weights" {
            return Err(Broken(format!("{what} come back as NaN")));
        }
        if nan {
            warning = Some((Verdict::Warn, format!("{what}: some come back as NaN")));
        }
        if read.iter().any(|value| value.is_infinite()) {
            warning = Some((Verdict::Warn, format!("{what}: some come back infinite")));
        }
    }
    warning.map_or_else(pass, Ok)
}

pub(super) fn not_finite(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    // Blocks of up to 4096 that cross rows reach one row to either side.
    let (rows, cols, bad) = (8, 4096, 4);
    let mut warning = None;
    for (what, value) in [("a NaN", f32::NAN), ("an infinity", f32::INFINITY)] {
        let mut values = Random::new(11).normal(rows * cols, DEVIATION);
        values[bad * cols + 5] = value;
        let source = Source::new(&values, rows, cols, DType::F32)?;
        let Some(layout) = supported(scheme.layout(rows, cols, DType::F32))? else {
            return Ok((Verdict::Skip, format!("{} is not stored", source.name())));
        };
        let stored = match store(scheme.as_ref(), &source, 1) {
            Ok(Some(stored)) => stored,
            Ok(None) => continue,
            // To refuse such a matrix is as good, and the case's own words say how it was refused.
            Err(Broken(message)) if !message.contains("panicked") => continue,
            Err(broken) => return Err(broken),
        };
        let read = read_all(scheme.as_ref(), &stored)?;
        let spoilt = |row: &usize| {
            read[row * cols..(row + 1) * cols]
                .iter()
                .any(|value| !value.is_finite())
        };
        let far: Vec<usize> = (0..rows)
            .filter(|row| row.abs_diff(bad) > 1)
            .filter(spoilt)
            .collect();
        if !far.is_empty() {
            warning = Some(format!(
                "{what} in row {bad} spoils rows {far:?} ({})",
                layout.kind()
            ));
        }
        if read[bad * cols + 5].is_finite() && value.is_nan() {
            warning = Some(format!(
                "{what} comes back as the number {}",
                read[bad * cols + 5]
            ));
        }
    }
    warning.map_or_else(pass, |warning| Ok((Verdict::Warn, warning)))
}

fn supported<T>(result: crate::Result<T>) -> Result<Option<T>, Broken> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Unsupported(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_errors_by_hand() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_error(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert!((relative_error(&[3.0, 3.0], &[3.0, 4.0]) - 0.2).abs() < 1e-15);
    }
}
