//! Every kernel against f64 sums over the reference decoder's rule.

use half::{bf16, f16};
use qbench_kernels::{Element, codebook_many::Many};

use super::{Kernels, stored::Stored};
use crate::{
    Chosen, Shape,
    device::{Buffer, Device, Result},
    random::Random,
};

/// The [`error`] that rounding the table's values, the weights and the output to 8 bits of mantissa explains: each is off by
/// 2^-9 = 2.0e-3 at most, of which all 16 values of a table may be off the same way, the others at random.
const TOLERANCE: f64 = 4.0e-3;

/// Elements of a product that are computed in f64.
const SAMPLES: usize = 600;

/// Relative error of up to [`SAMPLES`] elements of `y`; infinite when one is no number.
///
/// Relative to the norm that sums of the same terms with signs at random have: what rounding the terms changes is a share
/// of that, whereas a handful of sums may happen to be small.
fn error(random: &mut Random, stored: &Stored, x: &[f32], tokens: usize, y: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    if y.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let all = tokens * stored.rows;
    for sample in 0..all.min(SAMPLES) {
        let at = if all <= SAMPLES { sample } else { random.below(all) };
        let (token, row) = (at / stored.rows, at % stored.rows);
        let terms = (0..stored.cols)
            .map(|col| f64::from(stored.element(row, col)) * f64::from(x[token * stored.cols + col]));
        let (exact, squares) = terms.fold((0.0, 0.0), |(sum, squares), term| {
            (sum + term, squares + term * term)
        });
        difference += (f64::from(y[at]) - exact).powi(2);
        norm += squares;
    }
    (difference / norm).sqrt()
}

/// Rows, columns and block of a matrix, and how it is stored.
type Kind = ((usize, usize, usize), (bool, bool, bool));

/// Weights to multiply by: of the shapes that are named, with scales in f32 and in 8 bits, or of shapes even and odd.
fn product_shapes(named: &[Shape]) -> Vec<Kind> {
    if named.is_empty() {
        return vec![
            ((8, 64, 64), (false, false, false)),
            ((13, 192, 64), (false, false, true)),
            ((131, 320, 64), (false, true, false)),
            ((130, 96, 32), (false, false, true)),
            ((257, 3072, 4096), (false, false, false)),
            ((1000, 1216, 128), (true, false, true)),
            ((50, 512, 64), (true, true, false)),
            ((2100, 768, 64), (false, true, true)),
            ((24, 16384, 64), (false, false, false)),
            ((47, 12288, 64), (false, false, true)),
            ((3072, 768, 64), (false, false, false)),
            ((4096, 4096, 64), (false, false, true)),
        ];
    }
    let kinds = |(rows, cols): &Shape| [false, true].map(|coded| ((*rows, *cols, 64), (false, false, coded)));
    named.iter().flat_map(kinds).collect()
}

/// Every kernel at shapes even and odd; returns the number of failures.
pub(crate) fn check(device: &Device, kernels: &Kernels, chosen: &Chosen) -> Result<usize> {
    let mut random = Random(1);
    let mut failures = 0;
    for (shape, kind) in [
        ((5, 7, 64), (false, false, false)),
        ((37, 100, 64), (false, false, true)),
        ((3, 129, 48), (true, true, true)),
        ((96, 1000, 128), (false, true, false)),
        ((64, 4096, 64), (true, true, false)),
    ] {
        failures += dequantize(device, kernels, &mut random, shape, kind)?;
    }
    for (shape, kind) in product_shapes(&chosen.shapes) {
        let all: &[usize] = if shape.0 < 2000 {
            &[1, 2, 5, 8, 9, 16, 17, 33, 64, 100, 129, 256, 300]
        } else {
            &[1, 8, 16, 33, 100, 300]
        };
        for tokens in chosen.tokens(all) {
            failures += products(device, kernels, &mut random, shape, kind, tokens)?;
        }
    }
    Ok(failures)
}

fn dequantize(
    device: &Device,
    kernels: &Kernels,
    random: &mut Random,
    shape: (usize, usize, usize),
    kind: (bool, bool, bool),
) -> Result<usize> {
    let stored = Stored::random(random, shape, kind)?;
    let (rows, cols, _) = shape;
    let expected: Vec<f32> = (0..rows * cols)
        .map(|at| stored.element(at / cols, at % cols))
        .collect();
    let (f32s, f16s, bf16s) = (
        Buffer::<f32>::poisoned(rows * cols)?,
        Buffer::<f16>::poisoned(rows * cols)?,
        Buffer::<bf16>::poisoned(rows * cols)?,
    );
    // In two parts, so that a start within the matrix is seen too.
    let cut = rows / 2;
    for range in [0..cut, cut..rows] {
        let skip = (range.start * cols) as u64;
        for (to, element) in [
            (f32s.at, Element::F32),
            (f16s.at, Element::F16),
            (bf16s.at, Element::BF16),
        ] {
            let to = to + skip * element.size() as u64;
            if !to.is_multiple_of(16) {
                continue;
            }
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                kernels
                    .dequantize
                    .run(&stored.weight(), range.clone(), to, element, device.stream)?;
            };
        }
    }
    device.wait()?;
    let whole = |element: usize| (cut * cols * element).is_multiple_of(16);
    let equal = (!whole(4)
        || f32s
            .read()?
            .iter()
            .zip(&expected)
            .all(|(a, b)| a.to_bits() == b.to_bits()))
        && (!whole(2)
            || f16s
                .read()?
                .iter()
                .zip(&expected)
                .all(|(a, b)| a.to_bits() == f16::from_f32(*b).to_bits())
                && bf16s
                    .read()?
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| a.to_bits() == bf16::from_f32(*b).to_bits()));
    if !equal {
        println!("WRONG dequantise {shape:?} {kind:?}");
    }
    Ok(usize::from(!equal))
}

fn products(
    device: &Device,
    kernels: &Kernels,
    random: &mut Random,
    shape: (usize, usize, usize),
    kind: (bool, bool, bool),
    tokens: usize,
) -> Result<usize> {
    let stored = Stored::random(random, shape, kind)?;
    let weight = stored.weight();
    let (rows, cols, _) = shape;
    let values: Vec<f32> = (0..tokens * cols)
        .map(|_| bf16::from_f32(random.normal()).to_f32())
        .collect();
    let mut failures = 0;
    let mut judge = |kernel: &str, element: Element, y: Vec<f32>| {
        let error = error(random, &stored, &values, tokens, &y);
        // A product that is not finite compares false.
        if error.is_nan() || error >= TOLERANCE {
            failures += 1;
            println!("WRONG {kernel} {element:?} {tokens} tokens, {shape:?} {kind:?}: error {error:.2e}");
        }
    };
    for element in [Element::BF16, Element::F16] {
        let x = match element {
            Element::BF16 => Buffer::of(
                &values
                    .iter()
                    .map(|v| bf16::from_f32(*v).to_bits())
                    .collect::<Vec<u16>>(),
            )?,
            _ => Buffer::of(
                &values
                    .iter()
                    .map(|v| f16::from_f32(*v).to_bits())
                    .collect::<Vec<u16>>(),
            )?,
        };
        let read = |y: &Buffer<u16>| -> Result<Vec<f32>> {
            let widen = |bits: &u16| match element {
                Element::BF16 => bf16::from_bits(*bits).to_f32(),
                _ => f16::from_bits(*bits).to_f32(),
            };
            Ok(y.read()?.iter().map(widen).collect())
        };
        if kernels.few.fits(&weight, tokens, element) {
            let y = Buffer::<u16>::poisoned(tokens * rows)?;
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                kernels
                    .few
                    .run(&weight, x.at, tokens, y.at, element, device.stream)?;
            };
            device.wait()?;
            judge("few", element, read(&y)?);
        }
        if let Some(many) = &kernels.many
            && Many::fits(&weight, element)
        {
            let y = Buffer::<u16>::poisoned(tokens * rows)?;
            let workspace = Buffer::<u8>::poisoned(many.workspace(&weight, tokens))?;
            // SAFETY: as above.
            unsafe { many.run(&weight, x.at, tokens, y.at, element, workspace.at, device.stream)? };
            device.wait()?;
            judge("many", element, read(&y)?);
        }
    }
    Ok(failures)
}
