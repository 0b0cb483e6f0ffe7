//! [`Ops`] on f32 buffers.

use qbench_architectures::{AttentionShape, Loaded, Ops, Pass};
use qbench_sdk::{
    DType, Error, Layout, Result, StoredTensor,
    backend::{Execution, Memory},
};
use rayon::prelude::*;

use crate::{
    allocator::counter,
    attention::{self, Sequence},
    elementwise,
    kernels::Kernels,
    linear::Linear,
};

/// The library gemm keeps a slab of the size of the second-level cache for each thread; no processor has a larger one.
const SLAB_BYTES: u64 = 4 << 20;

/// Operations of one precision, on the rayon pool that they are called in.
pub(crate) struct CpuOps {
    precision: DType,
    kernels: Kernels,
}

/// Activations: values of the precision, held as f32.
pub(crate) struct Tensor {
    values: Vec<f32>,
    width: usize,
}

/// Keys and values of a layer, a pair of growing matrices for each sequence.
pub(crate) struct KeyValues {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// One pass.
pub(crate) struct Tokens {
    ids: Vec<u32>,
    mask: Vec<u8>,
    batch: usize,
    length: usize,
    past: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl CpuOps {
    pub(crate) fn new(precision: DType, kernels: Kernels) -> Self {
        Self { precision, kernels }
    }
}

impl Tensor {
    fn zeros(rows: usize, width: usize) -> Self {
        Self {
            values: vec![0.0; rows * width],
            width,
        }
    }

    fn rows(&self) -> usize {
        self.values.len() / self.width
    }
}

impl Ops for CpuOps {
    type Tensor = Tensor;
    type Vector = Vec<f32>;
    type Linear = Linear;
    type Cache = KeyValues;
    type Tokens = Tokens;
    type Pooled = Vec<f32>;

    fn load_vector(&mut self, vector: Box<dyn StoredTensor>) -> Result<Loaded<Vec<f32>>> {
        let Some(dense) = vector.dense() else {
            return Err(Error::Unsupported(format!(
                "a vector in layout {}; only dense floats are known",
                vector.layout().kind()
            )));
        };
        let Layout::Dense(layout) = vector.layout() else {
            return Err(Error::Internal(
                "a dense matrix without a dense layout".to_owned(),
            ));
        };
        let mut values = vec![0.0; layout.cols];
        dense.read_row(0, &mut values)?;
        elementwise::round(&mut values, self.precision);
        Ok(Loaded {
            bytes: (values.len() * size_of::<f32>()) as u64,
            value: values,
            execution: Execution::Native {
                kernel: "f32".to_owned(),
            },
        })
    }

    fn load_linear(
        &mut self,
        weight: Box<dyn StoredTensor>,
        bias: Option<Vec<f32>>,
    ) -> Result<Loaded<Linear>> {
        Linear::load(weight, bias, self.precision, self.kernels)
    }

    fn new_cache(&self, batch: usize, _shape: &AttentionShape) -> Result<KeyValues> {
        Ok(KeyValues {
            keys: vec![Vec::new(); batch],
            values: vec![Vec::new(); batch],
        })
    }

    fn begin(&self, pass: &Pass<'_>) -> Result<Tokens> {
        Ok(Tokens {
            ids: pass.tokens.ids.to_vec(),
            mask: pass.tokens.mask.to_vec(),
            batch: pass.tokens.batch,
            length: pass.tokens.length,
            past: pass.past,
            cos: pass.cos.to_vec(),
            sin: pass.sin.to_vec(),
        })
    }

    fn embed(&self, table: &Linear, tokens: &Tokens) -> Result<Tensor> {
        let mut x = Tensor::zeros(tokens.ids.len(), table.cols());
        x.values
            .par_chunks_mut(table.cols())
            .zip(&tokens.ids)
            .try_for_each(|(row, id)| table.read_row(*id as usize, row))?;
        Ok(x)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Vec<f32>, eps: f32) -> Result<Tensor> {
        let mut out = Tensor::zeros(x.rows(), x.width);
        elementwise::rms_norm(&x.values, weight, eps, self.precision, &mut out.values);
        Ok(out)
    }

    fn linear(&self, x: &Tensor, weight: &Linear) -> Result<Tensor> {
        let mut out = Tensor::zeros(x.rows(), weight.rows());
        weight.forward(&x.values, &mut out.values, self.precision)?;
        Ok(out)
    }

    fn rope(
        &self,
        mut q: Tensor,
        mut k: Tensor,
        head_dim: usize,
        tokens: &Tokens,
    ) -> Result<(Tensor, Tensor)> {
        debug_assert_eq!(tokens.cos.len(), tokens.length * head_dim / 2);
        let angles = (tokens.cos.as_slice(), tokens.sin.as_slice());
        for x in [&mut q, &mut k] {
            elementwise::rope(&mut x.values, x.width, tokens.length, angles, self.precision);
        }
        Ok((q, k))
    }

    fn attention(
        &self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: &AttentionShape,
        tokens: &Tokens,
        cache: Option<&mut KeyValues>,
    ) -> Result<Tensor> {
        let each = tokens.length * k.width;
        let positions = tokens.past + tokens.length;
        let masks = tokens.mask.chunks_exact(positions);
        let sequences: Vec<Sequence<'_>> = match cache {
            None => (k.values.chunks_exact(each))
                .zip(v.values.chunks_exact(each))
                .zip(masks)
                .map(|((keys, values), mask)| Sequence { keys, values, mask })
                .collect(),
            Some(cache) => {
                for (cached, new) in cache.keys.iter_mut().zip(k.values.chunks_exact(each)) {
                    cached.extend_from_slice(new);
                }
                for (cached, new) in cache.values.iter_mut().zip(v.values.chunks_exact(each)) {
                    cached.extend_from_slice(new);
                }
                (cache.keys.iter().zip(&cache.values))
                    .zip(masks)
                    .map(|((keys, values), mask)| Sequence { keys, values, mask })
                    .collect()
            }
        };
        let mut out = Tensor::zeros(q.rows(), q.width);
        attention::attention(
            self.kernels,
            &q.values,
            &sequences,
            tokens.length,
            tokens.past,
            shape,
            self.precision,
            &mut out.values,
        );
        Ok(out)
    }

    fn gated_mlp(&self, x: &Tensor, gate: &Linear, up: &Linear, down: &Linear) -> Result<Tensor> {
        let mut inner = self.linear(x, gate)?;
        let up = self.linear(x, up)?;
        elementwise::silu_times(&mut inner.values, &up.values, self.precision);
        drop(up);
        self.linear(&inner, down)
    }

    fn add(&self, mut x: Tensor, y: &Tensor) -> Result<Tensor> {
        elementwise::add(&mut x.values, &y.values, self.precision);
        Ok(x)
    }

    fn last_positions(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        let values = x
            .values
            .chunks_exact(tokens.length * x.width)
            .flat_map(|sequence| &sequence[(tokens.length - 1) * x.width..])
            .copied()
            .collect();
        Ok(Tensor {
            values,
            width: x.width,
        })
    }

    fn project(&self, x: &Tensor, weight: &Linear, out: &mut [f32]) -> Result<()> {
        weight.forward(&x.values, out, DType::F32)
    }

    fn mean_pool(&self, x: &Tensor, tokens: &Tokens) -> Result<Vec<f32>> {
        let mut out = vec![0.0; tokens.batch * x.width];
        let positions = tokens.past + tokens.length;
        out.par_chunks_mut(x.width)
            .zip(x.values.par_chunks(tokens.length * x.width))
            .zip(tokens.mask.par_chunks(positions))
            .for_each(|((out, states), mask)| {
                let mut sums = vec![0.0_f64; x.width];
                let mut count = 0_u32;
                for (state, _) in states
                    .chunks_exact(x.width)
                    .zip(&mask[tokens.past..])
                    .filter(|(_, token)| **token != 0)
                {
                    count += 1;
                    for (sum, value) in sums.iter_mut().zip(state) {
                        *sum += f64::from(*value);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = (sum / f64::from(count.max(1))) as f32;
                }
            });
        Ok(out)
    }

    fn read_pooled(&self, pooled: Vec<f32>, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&pooled);
        Ok(())
    }

    fn copy_out(&self, x: &Tensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&x.values);
        Ok(())
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            allocated: counter().live(),
            peak_allocated: counter().peak(),
            reserved: None,
            measured_by: "allocations of the cpu plugin".to_owned(),
        })
    }

    fn workspace_bytes(&self) -> u64 {
        rayon::current_num_threads() as u64 * SLAB_BYTES
    }

    fn reset_peak_memory(&self) -> Result<()> {
        counter().reset_peak();
        Ok(())
    }
}
