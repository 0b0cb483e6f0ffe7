//! `qbench.scaled-fp8/1` by torch's operations: e4m3 weights and activations, sums in f64, where they are exact in any
//! order. The sdk's [`fp8`](qbench_sdk::layout::fp8) is the reference; this gives its bits. Our kernels on a GPU multiply on
//! tensor cores instead.

use qbench_sdk::{
    Result,
    layout::ScaledFp8,
    layout::fp8::{E4M3, E4M3_MAX},
};
use tch::{Kind, Tensor};

use super::held::Held;
use crate::error::Named;

/// A weight whose codes stay as they are stored.
pub(super) struct Fp8Weight {
    rows: i64,
    cols: i64,
    /// Codes and scales; filled up with zeros where our kernels use them.
    held: Held,
    /// The number that each code stands for, f64.
    numbers: Tensor,
    /// The largest number, f32. On the device, since torch multiplies by the reciprocal of what is not.
    largest: Tensor,
}

impl Fp8Weight {
    /// `pack`: what rows and columns are filled up to a multiple of.
    pub(super) fn new(layout: &ScaledFp8, held: Held, pack: usize) -> Result<Self> {
        let (rows, cols) = (layout.rows as i64, layout.cols as i64);
        let [below, right] =
            [layout.rows, layout.cols].map(|size| (size.next_multiple_of(pack) - size) as i64);
        let held = if (below, right) == (0, 0) {
            held
        } else {
            Held::made(vec![
                held.tensor(0)
                    .f_constant_pad_nd([0, right, 0, below])
                    .op("constant_pad_nd")?,
                held.tensor(1)
                    .f_constant_pad_nd([0, below])
                    .op("constant_pad_nd")?,
            ])
        };
        let device = held.tensor(0).device();
        let numbers = Tensor::f_from_slice(&E4M3.map(f64::from)).op("from_slice")?;
        let largest = Tensor::f_from_slice(&[E4M3_MAX]).op("from_slice")?;
        Ok(Self {
            rows,
            cols,
            held,
            numbers: numbers.f_to_device(device).op("to device")?,
            largest: largest.f_to_device(device).op("to device")?,
        })
    }

    /// Codes and scales as they are held.
    pub(super) fn held(&self) -> [&Tensor; 2] {
        [0, 1].map(|index| self.held.tensor(index))
    }

    pub(super) fn bytes(&self) -> usize {
        let [codes, scales] = self.held();
        codes.numel() + scales.numel() * size_of::<f32>()
    }

    /// The scales, `[rows]`.
    fn scales(&self) -> Result<Tensor> {
        self.held.tensor(1).f_narrow(0, 0, self.rows).op("narrow")
    }

    /// The numbers of the codes, `[rows, cols]`, f64.
    fn numbers(&self) -> Result<Tensor> {
        let codes = self
            .held
            .tensor(0)
            .f_narrow(0, 0, self.rows)
            .op("narrow")?
            .f_narrow(1, 0, self.cols)
            .op("narrow")?
            .f_contiguous()
            .op("contiguous")?;
        let indices = codes.f_view([-1]).op("view")?.f_to_kind(Kind::Int).op("to int")?;
        self.numbers
            .f_index_select(0, &indices)
            .op("index_select")?
            .f_view_as(&codes)
            .op("view_as")
    }

    /// The weight as `[rows, cols]` of `kind`: one f32 product, rounded once.
    pub(super) fn decode(&self, kind: Kind) -> Result<Tensor> {
        self.numbers()?
            .f_to_kind(Kind::Float)
            .op("to f32")?
            .f_mul(&self.scales()?.f_view([-1, 1]).op("view")?)
            .op("mul")?
            .f_to_kind(kind)
            .op("to the precision")
    }

    /// `x · Wᵀ + bias`, rounded once.
    pub(super) fn product(&self, x: &Tensor, bias: Option<&Tensor>, out: Kind) -> Result<Tensor> {
        let (numbers, scales) = quantize(x, &self.largest)?;
        let mut values = numbers
            .f_mm(&self.numbers()?.f_transpose(0, 1).op("transpose")?)
            .op("mm")?
            .f_to_kind(Kind::Float)
            .op("to f32")?;
        let scales = scales
            .f_mul(&self.scales()?.f_view([1, -1]).op("view")?)
            .op("mul")?;
        let _ = values.f_mul_(&scales).op("mul_")?;
        if let Some(bias) = bias {
            let _ = values.f_add_(bias).op("add_")?;
        }
        values.f_to_kind(out).op("to the precision")
    }
}

/// The activations' e4m3 numbers in f64, and a scale a token, `[tokens, 1]`.
fn quantize(x: &Tensor, largest: &Tensor) -> Result<(Tensor, Tensor)> {
    let x = x.f_to_kind(Kind::Float).op("to f32")?;
    let scales = x
        .f_abs()
        .op("abs")?
        .f_amax([1_i64].as_slice(), true)
        .op("amax")?
        .f_div(largest)
        .op("div")?;
    let zero = scales.f_eq(0.0).op("eq")?;
    let limit = f64::from(E4M3_MAX);
    let numbers = x
        .f_div(&scales)
        .op("div")?
        // Torch turns what is too large into NaN, the format's rule here is the largest number.
        .f_clamp(-limit, limit)
        .op("clamp")?
        .f_masked_fill(&zero, 0.0)
        .op("masked_fill")?
        .f_to_kind(Kind::Float8e4m3fn)
        .op("to e4m3")?
        .f_to_kind(Kind::Double)
        .op("to f64")?;
    Ok((numbers, scales))
}
