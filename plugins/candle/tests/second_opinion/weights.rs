//! Weights as candle's tensors of f32.

use candle_core::{DType as Kind, Device::Cpu, Tensor};
use qbench_architectures::Loaded;
use qbench_sdk::{
    CallContext, DType, Layout, MatrixMut, Result, StoredTensor,
    backend::{DequantizeWhen, Execution},
    layout::decode,
    widen,
};

use crate::{operations, ops::failed};

/// A matrix with its bias.
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    /// `x · Wᵀ + bias` in f32.
    pub(crate) fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        operations::product(&x.to_dtype(Kind::F32)?, &self.weight, self.bias.as_ref())
    }
}

/// How a weight of this layout is run.
pub(crate) fn execution(layout: &Layout, precision: DType) -> Execution {
    match layout {
        Layout::Dense(_) => Execution::Native {
            kernel: "candle's matmul".to_owned(),
        },
        _ => Execution::Dequantize {
            to: precision,
            when: DequantizeWhen::Load,
        },
    }
}

/// A weight of any layout as `[rows, cols]`, rounded to the precision: by the sdk's reference decoder, where the sdk knows
/// the layout.
pub(crate) fn load(tensor: &dyn StoredTensor, precision: DType) -> Result<Loaded<Tensor>> {
    let layout = tensor.layout();
    let (rows, cols) = (layout.rows(), layout.cols());
    let mut bytes = vec![0; rows * cols * precision.size()];
    let mut matrix = MatrixMut::new(&mut bytes, rows, cols, precision)?;
    match layout {
        Layout::Custom(_) => tensor.dequantize(0, &mut matrix, CallContext::single_threaded())?,
        known => decode(known, &tensor.buffers(), 0, &mut matrix)?,
    }
    let mut values = vec![0.0; rows * cols];
    widen(&bytes, precision, &mut values)?;
    Ok(Loaded {
        bytes: size_of_val(&values[..]) as u64,
        value: Tensor::from_vec(values, (rows, cols), &Cpu).map_err(failed)?,
        execution: execution(layout, precision),
    })
}
