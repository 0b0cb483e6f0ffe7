//! Attention by torch's `scaled_dot_product_attention`, and what its queries see.

use qbench_architectures::AttentionShape;
use qbench_sdk::Result;
use tch::{Device, Kind, Tensor};

use crate::{error::Named, native};

/// The sequences of one pass.
pub(crate) struct Sequences<'a> {
    pub(crate) batch: usize,
    /// New positions a sequence.
    pub(crate) length: usize,
    /// Positions before them.
    pub(crate) past: usize,
    /// `[batch, past + length]`: 1 for a token.
    pub(crate) mask: &'a [u8],
}

/// Which keys the queries of a pass see.
pub(crate) struct Visibility {
    /// Nothing but the causal rule of a pass without a past, which torch's kernels know by themselves.
    causal: bool,
    /// `[batch, 1, length, positions]`: whether a query sees a key; without it, all or by `causal`.
    seen: Option<Tensor>,
    /// `[batch, 1, length, 1]`: queries that see no key at all.
    blind: Option<Tensor>,
}

impl Visibility {
    pub(crate) fn new(sequences: &Sequences<'_>, shape: &AttentionShape, device: Device) -> Result<Self> {
        let (length, past) = (sequences.length, sequences.past);
        let positions = past + length;
        let padded = sequences.mask.contains(&0);
        let windowed = shape.window.is_some_and(|window| positions > window);
        let causal = shape.causal && length > 1;
        if !(padded || windowed || causal && past > 0) {
            return Ok(Self {
                causal,
                seen: None,
                blind: None,
            });
        }
        let line = |first: usize, count: usize, shape: [i64; 2]| {
            Tensor::f_arange_start(first as i64, (first + count) as i64, (Kind::Int64, device))
                .op("arange")?
                .f_view(shape)
                .op("view")
        };
        let query = line(past, length, [-1, 1])?;
        let key = line(0, positions, [1, -1])?;
        let mut seen = if shape.causal {
            key.f_le_tensor(&query).op("le")?
        } else {
            Tensor::f_ones([length as i64, positions as i64], (Kind::Bool, device)).op("ones")?
        };
        if let Some(window) = shape.window {
            let first = query.f_sub_scalar(window as i64).op("sub")?;
            seen = seen
                .f_logical_and(&key.f_gt_tensor(&first).op("gt")?)
                .op("logical_and")?;
        }
        let mut seen = seen.f_view([1, 1, length as i64, positions as i64]).op("view")?;
        let mut blind = None;
        if padded {
            let tokens = flags(sequences.mask, device)?
                .f_view([sequences.batch as i64, 1, 1, positions as i64])
                .op("view")?;
            seen = seen.f_logical_and(&tokens).op("logical_and")?;
            let without = blind_queries(sequences, shape);
            if without.contains(&1) {
                let without = flags(&without, device)?
                    .f_view([sequences.batch as i64, 1, length as i64, 1])
                    .op("view")?;
                // A softmax over nothing is no number: these queries see everything, and their results are dropped.
                seen = seen.f_logical_or(&without).op("logical_or")?;
                blind = Some(without);
            }
        }
        Ok(Self {
            causal: false,
            seen: Some(seen),
            blind,
        })
    }
}

fn flags(bytes: &[u8], device: Device) -> Result<Tensor> {
    Tensor::f_from_slice(bytes)
        .op("from_slice")?
        .f_to_device(device)
        .op("to device")?
        .f_to_kind(Kind::Bool)
        .op("to bool")
}

/// `[batch, length]`: 1 for a query that sees no key.
fn blind_queries(sequences: &Sequences<'_>, shape: &AttentionShape) -> Vec<u8> {
    let positions = sequences.past + sequences.length;
    let mut blind = Vec::with_capacity(sequences.batch * sequences.length);
    let mut tokens_before = vec![0_usize; positions + 1];
    for mask in sequences.mask.chunks_exact(positions) {
        for (index, token) in mask.iter().enumerate() {
            tokens_before[index + 1] = tokens_before[index] + usize::from(*token != 0);
        }
        for query in sequences.past..positions {
            let end = if shape.causal { query + 1 } else { positions };
            let start = shape
                .window
                .map_or(0, |window| (query + 1).saturating_sub(window));
            blind.push(u8::from(tokens_before[end] == tokens_before[start]));
        }
    }
    blind
}

/// `softmax(scale · q kᵀ) v`, `[batch · length, heads · head_dim]`, for `q` of that shape, and keys and values
/// `[batch, positions, kv_heads · head_dim]`.
pub(crate) fn attention(
    q: &Tensor,
    [keys, values]: [&Tensor; 2],
    batch: usize,
    shape: &AttentionShape,
    visibility: &Visibility,
) -> Result<Tensor> {
    let (heads, kv_heads, dim) = (shape.heads as i64, shape.kv_heads as i64, shape.head_dim as i64);
    let batch = batch as i64;
    let q = q
        .f_view([batch, -1, heads, dim])
        .op("view")?
        .f_transpose(1, 2)
        .op("transpose")?;
    // Torch's kernels for half precisions on a GPU let heads share keys; the others would fall back to a slow path.
    let shared = q.device().is_cuda() && q.kind() != Kind::Float && visibility.seen.is_none();
    let group = heads / kv_heads;
    let head_major = |tensor: &Tensor| -> Result<Tensor> {
        let positions = tensor.size()[1];
        let tensor = tensor.f_view([batch, positions, kv_heads, 1, dim]).op("view")?;
        let tensor = if shared || group == 1 {
            tensor.f_squeeze_dim(3).op("squeeze")?
        } else {
            tensor
                .f_expand([batch, positions, kv_heads, group, dim], false)
                .op("expand")?
                .f_reshape([batch, positions, heads, dim])
                .op("reshape")?
        };
        tensor.f_transpose(1, 2).op("transpose")
    };
    if q.device().is_cuda() {
        // cuDNN's kernel is planned anew for each length, some 40 ms: too much for one more position.
        native::allow_cudnn_attention(q.size()[2] == keys.size()[1]);
    }
    let mut out = Tensor::f_scaled_dot_product_attention(
        &q,
        &head_major(keys)?,
        &head_major(values)?,
        visibility.seen.as_ref(),
        0.0,
        visibility.causal,
        f64::from(shape.scale),
        shared && group > 1,
    )
    .op("scaled_dot_product_attention")?;
    if let Some(blind) = &visibility.blind {
        out = out.f_masked_fill(blind, 0.0).op("masked_fill")?;
    }
    out.f_transpose(1, 2)
        .op("transpose")?
        .f_reshape([-1, heads * dim])
        .op("reshape")
}
