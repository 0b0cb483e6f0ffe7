//! What a decoder computes, each as its formula, on tensors of f32.

use candle_core::{D, Result, Tensor};

/// `x / sqrt(mean(x²) + eps) · weight`, row by row.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    x.broadcast_div(&size)?.broadcast_mul(weight)
}

/// `x · Wᵀ + bias`.
pub(crate) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => product.broadcast_add(bias),
        None => Ok(product),
    }
}

/// `[batch · length, heads · head_dim]` as `[batch, heads, length, head_dim]`.
pub(crate) fn split_heads(x: &Tensor, batch: usize, head_dim: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    x.reshape((batch, rows / batch, width / head_dim, head_dim))?
        .transpose(1, 2)?
        .contiguous()
}

/// The way back.
fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, length, head_dim) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch * length, heads * head_dim))
}

/// Halves `a`, `b` of each head become `a cos - b sin`, `b cos + a sin`; `cos` and `sin` are `[length, head_dim / 2]`.
pub(crate) fn rotate(x: &Tensor, batch: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = cos.dim(1)?;
    let heads = split_heads(x, batch, 2 * half)?;
    let (a, b) = (heads.narrow(3, 0, half)?, heads.narrow(3, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    join_heads(&Tensor::cat(&[first, second], 3)?)
}

/// `softmax(scale · q kᵀ) v` over the keys that `seen`, `[batch, 1, queries, keys]`, marks with 1 and not with 0. Queries,
/// keys and values are split into heads; those of keys and values serve equal groups of query heads.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32, seen: &Tensor) -> Result<Tensor> {
    let group = q.dim(1)? / k.dim(1)?;
    let (k, v) = (repeat_heads(k, group)?, repeat_heads(v, group)?);
    let scores = (q.matmul(&k.t()?)? * f64::from(scale))?;
    // The logarithm of 0 hides a key. A query that sees none has a finite maximum and a sum above zero all the same, so
    // that it gives zeros and not NaN.
    let scores = scores.broadcast_add(&seen.log()?)?;
    let largest = scores.max_keepdim(D::Minus1)?.maximum(f32::MIN)?;
    let shares = scores.broadcast_sub(&largest)?.exp()?;
    let sum = shares.sum_keepdim(D::Minus1)?.maximum(f32::MIN_POSITIVE)?;
    join_heads(&shares.broadcast_div(&sum)?.matmul(&v)?)
}

/// Each head `group` times, one after the other.
fn repeat_heads(x: &Tensor, group: usize) -> Result<Tensor> {
    let (batch, heads, length, head_dim) = x.dims4()?;
    x.unsqueeze(2)?
        .expand((batch, heads, group, length, head_dim))?
        .reshape((batch, heads * group, length, head_dim))
}

/// The mean over each sequence's positions that `kept`, `[batch, length, 1]`, marks with 1; zeros where there is none.
pub(crate) fn mean_pool(x: &Tensor, kept: &Tensor) -> Result<Tensor> {
    let (batch, length, _) = kept.dims3()?;
    let sum = x
        .reshape((batch, length, x.dim(1)?))?
        .broadcast_mul(kept)?
        .sum(1)?;
    sum.broadcast_div(&kept.sum(1)?.maximum(1.0)?)
}
