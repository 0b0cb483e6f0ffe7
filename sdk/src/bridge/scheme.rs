//! Quantisation schemes across the boundary.

use qbench_abi::{
    AbiCallContext, AbiMatrix, AbiMatrixMut, AbiPlan, AbiResult, DTypeCode, Extension, SchemeAbi,
    SchemeAbi_TO, SchemeBox,
    abi_stable::{
        sabi_trait::TD_Opaque,
        std_types::{ROption, RSlice, RSliceMut, RStr, RString, RVec},
    },
};

use super::{
    Exported, convert,
    cuda_kernel::{self, BringsKernel},
    guard,
};
use crate::{
    CallContext, CudaKernel, DType, Layout, Matrix, MatrixMut, QuantScheme, Result, SchemeInfo,
    error::from_abi,
};

struct ExportedScheme(Exported<dyn QuantScheme>);

pub(super) fn export(scheme: Box<dyn QuantScheme>) -> SchemeBox {
    SchemeAbi_TO::from_value(ExportedScheme(Exported::new(scheme)), TD_Opaque)
}

impl SchemeAbi for ExportedScheme {
    fn describe(&self) -> AbiResult<RString> {
        guard(|| Ok(serde_json::to_string(&self.0.info())?.into()))
    }

    fn plan(&self, rows: u64, cols: u64, source: DTypeCode) -> AbiResult<AbiPlan> {
        guard(|| {
            let layout = self.0.layout(
                convert::size(rows)?,
                convert::size(cols)?,
                DType::from_code(source)?,
            )?;
            convert::plan_to_abi(&layout, self.0.workspace_bytes(&layout))
        })
    }

    fn quantize(
        &self,
        source: AbiMatrix<'_>,
        plan: &AbiPlan,
        buffers: RVec<RSliceMut<'_, u8>>,
        context: AbiCallContext,
    ) -> AbiResult<()> {
        guard(|| {
            let mut buffers: Vec<&mut [u8]> = buffers.into_iter().map(RSliceMut::into_mut_slice).collect();
            self.0.quantize(
                convert::matrix_from_abi(source)?,
                &convert::plan_from_abi(plan)?,
                &mut buffers,
                convert::context_from_abi(context),
            )
        })
    }

    fn dequantize(
        &self,
        plan: &AbiPlan,
        buffers: RVec<RSlice<'_, u8>>,
        first_row: u64,
        out: AbiMatrixMut<'_>,
        context: AbiCallContext,
    ) -> AbiResult<()> {
        guard(|| {
            let buffers: Vec<&[u8]> = buffers.iter().map(RSlice::as_slice).collect();
            self.0.dequantize(
                &convert::plan_from_abi(plan)?,
                &buffers,
                convert::size(first_row)?,
                &mut convert::matrix_mut_from_abi(out)?,
                convert::context_from_abi(context),
            )
        })
    }

    fn matmul(
        &self,
        plan: &AbiPlan,
        buffers: RVec<RSlice<'_, u8>>,
        input: AbiMatrix<'_>,
        output: AbiMatrixMut<'_>,
        context: AbiCallContext,
    ) -> AbiResult<()> {
        guard(|| {
            let buffers: Vec<&[u8]> = buffers.iter().map(RSlice::as_slice).collect();
            self.0.matmul(
                &convert::plan_from_abi(plan)?,
                &buffers,
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

impl BringsKernel for ExportedScheme {
    fn kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        self.0.cuda_kernel(layout)
    }
}

/// A scheme of a loaded plugin.
pub(super) struct ImportedScheme {
    scheme: SchemeBox,
    info: SchemeInfo,
}

pub(super) fn import(scheme: SchemeBox) -> Result<ImportedScheme> {
    let info = serde_json::from_str(&from_abi(scheme.describe())?)?;
    Ok(ImportedScheme { scheme, info })
}

impl QuantScheme for ImportedScheme {
    fn info(&self) -> SchemeInfo {
        self.info.clone()
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        convert::plan_from_abi(&from_abi(self.scheme.plan(
            rows as u64,
            cols as u64,
            source.to_code(),
        ))?)
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        let buffers: RVec<RSliceMut<'_, u8>> = buffers
            .iter_mut()
            .map(|buffer| RSliceMut::from_mut_slice(buffer))
            .collect();
        from_abi(self.scheme.quantize(
            convert::matrix_to_abi(&source),
            &convert::plan_to_abi(layout, 0)?,
            buffers,
            convert::context_to_abi(context),
        ))
    }

    fn dequantize(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        first_row: usize,
        out: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        from_abi(self.scheme.dequantize(
            &convert::plan_to_abi(layout, 0)?,
            buffers.iter().map(|buffer| RSlice::from_slice(buffer)).collect(),
            first_row as u64,
            convert::matrix_mut_to_abi(out),
            convert::context_to_abi(context),
        ))
    }

    fn matmul(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        input: Matrix<'_>,
        output: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        from_abi(self.scheme.matmul(
            &convert::plan_to_abi(layout, 0)?,
            buffers.iter().map(|buffer| RSlice::from_slice(buffer)).collect(),
            convert::matrix_to_abi(&input),
            convert::matrix_mut_to_abi(output),
            convert::context_to_abi(context),
        ))
    }

    fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        cuda_kernel::of(|id| self.scheme.extension(id), layout)
    }

    fn workspace_bytes(&self, layout: &Layout) -> u64 {
        // The declaration travels with a plan, and a plan's layout may depend on the type that it is made from.
        let (rows, cols) = (layout.rows() as u64, layout.cols() as u64);
        [DType::F32, DType::BF16, DType::F16]
            .into_iter()
            .filter_map(|source| from_abi(self.scheme.plan(rows, cols, source.to_code())).ok())
            .find(|plan| convert::plan_from_abi(plan).is_ok_and(|planned| planned == *layout))
            .map_or(0, |plan| plan.workspace_bytes)
    }
}
