//! `qbench.int8-vectorwise/1`, LLM.int8(), by torch's operations. The sdk's [`int8`](qbench_sdk::layout::int8) is the
//! reference; everything but the outliers' part gives its bits, on every device.

use qbench_sdk::{Result, layout::int8::PRODUCT_STEP};
use tch::{Device, Kind, Tensor};

use super::held::Held;
use crate::{context::Means, error::Named};

/// f32(1 / 127): with a row's scale, turns a code into a weight.
const WEIGHT_STEP: f32 = 1.0 / 127.0;

/// Columns whose products of codes f32 adds exactly in any order: 1024 · 127² < 2^24.
const EXACT_COLS: i64 = 1024;

/// What torch's int8 product on CUDA asks for: more rows on the left than this, everything else in eights.
const CUDA_ROWS: i64 = 17;
const CUDA_STEP: usize = 8;

/// What bitsandbytes 0.50 has on the CPU in place of [`PRODUCT_STEP`], 1 / 127².
const BITSANDBYTES_CPU_STEP: f32 = 6.200_124e-5;

/// A weight whose codes stay as they are stored.
pub(super) struct Int8Weight {
    held: Held,
    /// With the scales of a token and of a row, turns a sum of products of codes into a value.
    step: f32,
    /// Magnitude from which an activation is an outlier; 0 for none.
    threshold: f64,
}

/// The activations of one call.
struct Activations {
    /// `[tokens, cols]`, 0 in the columns of outliers.
    codes: Tensor,
    /// `[tokens, 1]`
    scales: Tensor,
    /// Columns that hold an outlier.
    columns: Option<Tensor>,
}

/// How integers are multiplied on a device.
pub(crate) fn integer_kernel(means: Means) -> String {
    let product = match means.device {
        Device::Cpu if !exact_on_this_cpu() => "int8 product in exact f32 pieces",
        _ => "_int_mm",
    };
    let constant = if means.bitsandbytes_constant {
        ", the constant of bitsandbytes' CPU code"
    } else {
        ""
    };
    format!("{product}, f32 outliers{constant}")
}

/// Torch's int8 product on the CPU adds pairs of products in 16 bits, which overflow, unless the processor adds in 32.
fn exact_on_this_cpu() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Int8Weight {
    pub(super) fn new(held: Held, means: Means) -> Result<Self> {
        let threshold = held.tensor(2).f_double_value(&[0]).op("item")?;
        let step = if means.bitsandbytes_constant {
            BITSANDBYTES_CPU_STEP
        } else {
            PRODUCT_STEP
        };
        Ok(Self {
            held,
            step,
            threshold,
        })
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    fn codes(&self) -> &Tensor {
        self.held.tensor(0)
    }

    /// `[1, rows]`
    fn scales(&self) -> Result<Tensor> {
        self.held.tensor(1).f_view([1, -1]).op("view")
    }

    /// The weight as `[rows, cols]` of `kind`.
    pub(super) fn decode(&self, kind: Kind) -> Result<Tensor> {
        let scales = self.scales()?.f_view([-1, 1]).op("view")?;
        weights(self.codes(), &scales, kind)
    }

    /// `x · Wᵀ + bias`, rounded to `out` before the outliers' part is added, and once more after.
    pub(super) fn product(&self, x: &Tensor, bias: Option<&Tensor>, out: Kind) -> Result<Tensor> {
        let activations = quantize(x, self.threshold)?;
        let sums = integer_product(&activations.codes, self.codes())?;
        let scales = activations.scales.f_mul(&self.scales()?).op("mul")?;
        let mut values = sums.f_to_kind(Kind::Float).op("to f32")?;
        let _ = values.f_mul_(&scales).op("mul_")?;
        let _ = values.f_mul_scalar_(f64::from(self.step)).op("mul_")?;
        if let Some(bias) = bias {
            let _ = values.f_add_(bias).op("add_")?;
        }
        let values = values.f_to_kind(out).op("to the precision")?;
        let Some(columns) = &activations.columns else {
            return Ok(values);
        };
        let codes = self.codes().f_index_select(1, columns).op("index_select")?;
        let weights = weights(&codes, &self.scales()?.f_view([-1, 1]).op("view")?, x.kind())?;
        let outliers = x.f_index_select(1, columns).op("index_select")?;
        let wide = |tensor: &Tensor| tensor.f_to_kind(Kind::Float).op("to f32");
        wide(&outliers)?
            .f_mm(&wide(&weights)?.f_transpose(0, 1).op("transpose")?)
            .op("mm")?
            .f_add_(&values)
            .op("add_")?
            .f_to_kind(out)
            .op("to the precision")
    }
}

/// Codes and scales of rows as weights: two f32 products, rounded once.
fn weights(codes: &Tensor, scales: &Tensor, kind: Kind) -> Result<Tensor> {
    let mut values = codes.f_to_kind(Kind::Float).op("to f32")?;
    let _ = values.f_mul_(scales).op("mul_")?;
    let _ = values.f_mul_scalar_(f64::from(WEIGHT_STEP)).op("mul_")?;
    values.f_to_kind(kind).op("to the precision")
}

fn quantize(x: &Tensor, threshold: f64) -> Result<Activations> {
    let mut values = x
        .f_to_kind(Kind::Half)
        .op("to f16")?
        .f_to_kind(Kind::Float)
        .op("to f32")?;
    let columns = if threshold > 0.0 {
        let outliers = values.f_abs().op("abs")?.f_ge(threshold).op("ge")?;
        let columns = outliers
            .f_any_dim(0, false)
            .op("any")?
            .f_nonzero()
            .op("nonzero")?
            .f_view([-1])
            .op("view")?;
        let some = columns.numel() > 0;
        if some {
            let _ = values.f_masked_fill_(&outliers, 0.0).op("masked_fill_")?;
        }
        some.then_some(columns)
    } else {
        None
    };
    let scales = values
        .f_abs()
        .op("abs")?
        .f_amax([1_i64].as_slice(), true)
        .op("amax")?;
    let factors = scales
        .f_reciprocal()
        .op("reciprocal")?
        .f_mul_scalar(127.0)
        .op("mul")?;
    let _ = values.f_mul_(&factors).op("mul_")?;
    let _ = values.f_round_().op("round_")?;
    // A row of zeros gives 0 · inf; its codes are 0.
    let mut values = values.f_nan_to_num(0.0, None, None).op("nan_to_num")?;
    if let Some(columns) = &columns {
        let _ = values.f_index_fill_(1, columns, 0.0).op("index_fill_")?;
    }
    Ok(Activations {
        codes: values.f_to_kind(Kind::Int8).op("to i8")?,
        scales,
        columns,
    })
}

/// `codes · weightᵀ`, exact, `[tokens, rows]` of i32.
fn integer_product(codes: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match codes.device() {
        Device::Cpu if exact_on_this_cpu() => codes
            .f_internal_int_mm(&weight.f_transpose(0, 1).op("transpose")?)
            .op("_int_mm"),
        Device::Cpu => in_pieces(codes, weight),
        _ => on_cuda(codes, weight),
    }
}

/// In f32, as many columns at once as it adds exactly.
fn in_pieces(codes: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let cols = codes.size()[1];
    let piece = |tensor: &Tensor, first: i64| {
        tensor
            .f_narrow(1, first, EXACT_COLS.min(cols - first))
            .op("narrow")?
            .f_to_kind(Kind::Float)
            .op("to f32")
    };
    let mut sums =
        Tensor::f_zeros([codes.size()[0], weight.size()[0]], (Kind::Int, codes.device())).op("zeros")?;
    for first in (0..cols).step_by(EXACT_COLS as usize) {
        let part = piece(codes, first)?
            .f_mm(&piece(weight, first)?.f_transpose(0, 1).op("transpose")?)
            .op("mm")?;
        let _ = sums.f_add_(&part.f_to_kind(Kind::Int).op("to int")?).op("add_")?;
    }
    Ok(sums)
}

/// Torch's product, on shapes that it takes.
fn on_cuda(codes: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (tokens, rows) = (codes.size()[0], weight.size()[0]);
    let padded = |tensor: &Tensor, lines: i64| {
        let (found, cols) = (tensor.size()[0], tensor.size()[1]);
        let more = (lines - found, whole_steps(cols) - cols);
        if more == (0, 0) {
            return Ok(tensor.shallow_clone());
        }
        tensor
            .f_constant_pad_nd([0, more.1, 0, more.0])
            .op("constant_pad_nd")
    };
    padded(codes, tokens.max(CUDA_ROWS))?
        .f_internal_int_mm(
            &padded(weight, whole_steps(rows))?
                .f_transpose(0, 1)
                .op("transpose")?,
        )
        .op("_int_mm")?
        .f_narrow(0, 0, tokens)
        .op("narrow")?
        .f_narrow(1, 0, rows)
        .op("narrow")
}

/// The least multiple of what torch's product on CUDA counts in that is not smaller.
fn whole_steps(size: i64) -> i64 {
    (size as usize).next_multiple_of(CUDA_STEP) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_products_of_integers_on_the_cpu_are_exact() {
        // Codes at the ends of their range, where 16-bit sums and long f32 sums would be wrong.
        for (tokens, rows, cols) in [(1, 3, 7), (5, 33, 1024), (17, 8, 4099), (40, 64, 3000)] {
            let codes = |count: i64, step: i64| -> Vec<i8> {
                (0..count)
                    .map(|i| {
                        if i * step % 5 == 0 {
                            -127
                        } else {
                            127 - (i % 3) as i8
                        }
                    })
                    .collect()
            };
            let (x, weight) = (codes(tokens * cols, 7), codes(rows * cols, 3));
            let exact: Vec<i32> = x
                .chunks_exact(cols as usize)
                .flat_map(|x| {
                    weight
                        .chunks_exact(cols as usize)
                        .map(|weight| {
                            x.iter()
                                .zip(weight)
                                .map(|(x, w)| i32::from(*x) * i32::from(*w))
                                .sum()
                        })
                        .collect::<Vec<i32>>()
                })
                .collect();
            let tensor = |values: &[i8]| Tensor::from_slice(values).view([-1, cols]);
            let (x, weight) = (tensor(&x), tensor(&weight));
            for sums in [
                in_pieces(&x, &weight).unwrap(),
                integer_product(&x, &weight).unwrap(),
            ] {
                assert_eq!(
                    Vec::<i32>::try_from(sums.view([-1])).unwrap(),
                    exact,
                    "{tokens} {rows} {cols}"
                );
            }
        }
    }
}
