//! Weights across the boundary: the host exports them, a backend's plugin imports them.

use std::sync::Arc;

use qbench_abi::{
    AbiCallContext, AbiMatrix, AbiMatrixMut, AbiPlan, AbiResult, Extension, TensorAbi, TensorAbi_TO,
    TensorBox, WeightsAbi, WeightsAbi_TO, WeightsBox,
    abi_stable::{
        sabi_trait::TD_Opaque,
        std_types::{RNone, ROption, RSlice, RStr, RString, RVec},
    },
};

use super::{
    convert,
    cuda_kernel::{self, BringsKernel},
    guard,
};
use crate::{
    CallContext, CudaKernel, Layout, Matrix, MatrixMut, Result, StoredTensor, Weights, error::from_abi,
};

struct ExportedWeights(Arc<dyn Weights>);

pub(super) fn export(weights: Arc<dyn Weights>) -> WeightsBox {
    WeightsAbi_TO::from_value(ExportedWeights(weights), TD_Opaque)
}

impl WeightsAbi for ExportedWeights {
    fn names(&self) -> AbiResult<RVec<RString>> {
        guard(|| Ok(self.0.names()?.into_iter().map(RString::from).collect()))
    }

    fn tensor(&self, name: RStr<'_>) -> AbiResult<TensorBox> {
        guard(|| {
            let tensor = self.0.tensor(name.as_str())?;
            let plan = convert::plan_to_abi(tensor.layout(), 0)?;
            Ok(TensorAbi_TO::from_value(
                ExportedTensor { tensor, plan },
                TD_Opaque,
            ))
        })
    }

    fn extension(&self, _id: RStr<'_>) -> ROption<Extension<'_>> {
        RNone
    }
}

struct ExportedTensor {
    tensor: Box<dyn StoredTensor>,
    plan: AbiPlan,
}

impl TensorAbi for ExportedTensor {
    fn plan(&self) -> AbiPlan {
        self.plan.clone()
    }

    fn buffer(&self, index: u32) -> RSlice<'_, u8> {
        RSlice::from_slice(self.tensor.buffer(index as usize))
    }

    fn dequantize(&self, first_row: u64, out: AbiMatrixMut<'_>, context: AbiCallContext) -> AbiResult<()> {
        guard(|| {
            self.tensor.dequantize(
                convert::size(first_row)?,
                &mut convert::matrix_mut_from_abi(out)?,
                convert::context_from_abi(context),
            )
        })
    }

    fn matmul(
        &self,
        input: AbiMatrix<'_>,
        output: AbiMatrixMut<'_>,
        context: AbiCallContext,
    ) -> AbiResult<()> {
        guard(|| {
            self.tensor.matmul(
                convert::matrix_from_abi(input)?,
                &mut convert::matrix_mut_from_abi(output)?,
                convert::context_from_abi(context),
            )
        })
    }

    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>> {
        cuda_kernel::source(self, id)
    }
}

impl BringsKernel for ExportedTensor {
    fn kernel(&self, _layout: &Layout) -> Result<Option<CudaKernel>> {
        self.tensor.cuda_kernel()
    }
}

/// The host's weights as a backend's plugin sees them.
pub(super) struct ImportedWeights(pub(super) WeightsBox);

impl Weights for ImportedWeights {
    fn names(&self) -> Result<Vec<String>> {
        let names = from_abi(self.0.names())?;
        Ok(names.into_iter().map(RString::into_string).collect())
    }

    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        let tensor = from_abi(self.0.tensor(RStr::from(name)))?;
        let layout = convert::plan_from_abi(&tensor.plan())?;
        Ok(Box::new(ImportedTensor { tensor, layout }))
    }
}

struct ImportedTensor {
    tensor: TensorBox,
    layout: Layout,
}

impl StoredTensor for ImportedTensor {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        u32::try_from(index).map_or(&[], |index| self.tensor.buffer(index).as_slice())
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        from_abi(self.tensor.dequantize(
            first_row as u64,
            convert::matrix_mut_to_abi(out),
            convert::context_to_abi(context),
        ))
    }

    fn matmul(&self, input: Matrix<'_>, output: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        from_abi(self.tensor.matmul(
            convert::matrix_to_abi(&input),
            convert::matrix_mut_to_abi(output),
            convert::context_to_abi(context),
        ))
    }

    fn cuda_kernel(&self) -> Result<Option<CudaKernel>> {
        cuda_kernel::of(|id| self.tensor.extension(id), &self.layout)
    }
}
