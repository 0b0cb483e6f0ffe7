//! [`Ops`] on candle's tensors: operations in f32, each result rounded once to the precision.

use candle_core::{DType as Kind, Tensor};
use qbench_architectures::{AttentionShape, Loaded, Ops, Pass};
use qbench_sdk::{DType, Error, Result, StoredTensor, backend::Memory};

use crate::{
    operations,
    tokens::Tokens,
    weights::{self, Linear},
};

/// Operations of one precision.
pub(crate) struct PlainOps {
    precision: DType,
    /// The precision as candle has it.
    kind: Kind,
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
pub(crate) fn failed(error: candle_core::Error) -> Error {
    Error::Internal(format!("candle: {error}"))
}

/// Writes a tensor as f32.
fn write(x: &Tensor, out: &mut [f32]) -> candle_core::Result<()> {
    out.copy_from_slice(&widened(x)?.flatten_all()?.to_vec1()?);
    Ok(())
}

fn widened(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_dtype(Kind::F32)
}

impl PlainOps {
    pub(crate) fn new(precision: DType) -> Result<Self> {
        let kind = match precision {
            DType::F32 => Kind::F32,
            DType::F16 => Kind::F16,
            DType::BF16 => Kind::BF16,
            other => return Err(Error::Unsupported(format!("precision {other}"))),
        };
        Ok(Self { precision, kind })
    }

    /// Rounds the result of an operation.
    fn rounded(&self, result: candle_core::Result<Tensor>) -> Result<Tensor> {
        result.and_then(|x| x.to_dtype(self.kind)).map_err(failed)
    }
}

impl Ops for PlainOps {
    type Tensor = Tensor;
    type Vector = Tensor;
    type Linear = Linear;
    /// `[batch, heads, positions, head_dim]`, once there are any.
    type Cache = Option<[Tensor; 2]>;
    type Tokens = Tokens;
    type Pooled = Tensor;

    fn load_vector(&mut self, vector: Box<dyn StoredTensor>) -> Result<Loaded<Tensor>> {
        weights::load(vector.as_ref(), self.precision)
    }

    fn load_linear(&mut self, weight: Box<dyn StoredTensor>, bias: Option<Tensor>) -> Result<Loaded<Linear>> {
        let loaded = weights::load(weight.as_ref(), self.precision)?;
        Ok(Loaded {
            value: Linear {
                weight: loaded.value,
                bias,
            },
            bytes: loaded.bytes,
            execution: loaded.execution,
        })
    }

    fn new_cache(&self, _batch: usize, _shape: &AttentionShape) -> Result<Self::Cache> {
        Ok(None)
    }

    fn begin(&self, pass: &Pass<'_>) -> Result<Tokens> {
        Tokens::new(pass).map_err(failed)
    }

    fn embed(&self, table: &Linear, tokens: &Tokens) -> Result<Tensor> {
        self.rounded(table.weight.index_select(&tokens.ids, 0))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.rounded(widened(x).and_then(|x| operations::rms_norm(&x, weight, eps)))
    }

    fn linear(&self, x: &Tensor, weight: &Linear) -> Result<Tensor> {
        self.rounded(weight.product(x))
    }

    fn rope(&self, q: Tensor, k: Tensor, _head_dim: usize, tokens: &Tokens) -> Result<(Tensor, Tensor)> {
        let rotate = |x: &Tensor| {
            let (batch, cos, sin) = (tokens.batch, &tokens.cos, &tokens.sin);
            self.rounded(widened(x).and_then(|x| operations::rotate(&x, batch, cos, sin)))
        };
        Ok((rotate(&q)?, rotate(&k)?))
    }

    fn attention(
        &self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: &AttentionShape,
        tokens: &Tokens,
        cache: Option<&mut Self::Cache>,
    ) -> Result<Tensor> {
        let mix = || {
            let split = |x: &Tensor| operations::split_heads(&widened(x)?, tokens.batch, shape.head_dim);
            let mut kept = [split(&k)?, split(&v)?];
            if let Some(cache) = cache {
                if let Some([keys, values]) = cache.take() {
                    kept = [
                        Tensor::cat(&[&keys, &kept[0]], 2)?,
                        Tensor::cat(&[&values, &kept[1]], 2)?,
                    ];
                }
                *cache = Some(kept.clone());
            }
            let [keys, values] = &kept;
            operations::attention(&split(&q)?, keys, values, shape.scale, &tokens.seen(shape)?)
        };
        self.rounded(mix())
    }

    fn gated_mlp(&self, x: &Tensor, gate: &Linear, up: &Linear, down: &Linear) -> Result<Tensor> {
        let (gate, up) = (self.linear(x, gate)?, self.linear(x, up)?);
        let inner = self.rounded(widened(&gate).and_then(|gate| gate.silu()? * widened(&up)?))?;
        self.linear(&inner, down)
    }

    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        self.rounded(widened(&x).and_then(|x| x + widened(y)?))
    }

    fn last_positions(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let last = |width| {
            x.reshape((tokens.batch, tokens.length, width))?
                .narrow(1, tokens.length - 1, 1)?
                .squeeze(1)
        };
        x.dim(1).and_then(last).map_err(failed)
    }

    fn project(&self, x: &Tensor, weight: &Linear, out: &mut [f32]) -> Result<()> {
        weight
            .product(x)
            .and_then(|logits| write(&logits, out))
            .map_err(failed)
    }

    fn mean_pool(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        tokens
            .kept()
            .and_then(|kept| operations::mean_pool(&widened(x)?, &kept))
            .map_err(failed)
    }

    fn read_pooled(&self, pooled: Tensor, out: &mut [f32]) -> Result<()> {
        write(&pooled, out).map_err(failed)
    }

    fn copy_out(&self, x: &Tensor, out: &mut [f32]) -> Result<()> {
        write(x, out).map_err(failed)
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        Err(Error::Unsupported("counting candle's memory".to_owned()))
    }

    fn reset_peak_memory(&self) -> Result<()> {
        Ok(())
    }
}
