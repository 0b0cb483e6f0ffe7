//! Values that cross the boundary.

use qbench_abi::{
    AbiBufferSpec, AbiCallContext, AbiMatrix, AbiMatrixMut, AbiPlan,
    abi_stable::std_types::{RSlice, RSliceMut, RString},
};

use crate::{CallContext, DType, Error, Layout, Matrix, MatrixMut, Result, layout::BufferSpec};

pub(super) fn matrix_to_abi<'a>(matrix: &Matrix<'a>) -> AbiMatrix<'a> {
    AbiMatrix {
        data: RSlice::from_slice(matrix.data()),
        rows: matrix.rows() as u64,
        cols: matrix.cols() as u64,
        row_stride: matrix.row_stride() as u64,
        dtype: matrix.dtype().to_code(),
    }
}

pub(super) fn matrix_from_abi(matrix: AbiMatrix<'_>) -> Result<Matrix<'_>> {
    Matrix::with_stride(
        matrix.data.as_slice(),
        size(matrix.rows)?,
        size(matrix.cols)?,
        size(matrix.row_stride)?,
        DType::from_code(matrix.dtype)?,
    )
}

pub(super) fn matrix_mut_to_abi<'a>(matrix: &'a mut MatrixMut<'_>) -> AbiMatrixMut<'a> {
    AbiMatrixMut {
        rows: matrix.rows() as u64,
        cols: matrix.cols() as u64,
        row_stride: matrix.row_stride() as u64,
        dtype: matrix.dtype().to_code(),
        data: RSliceMut::from_mut_slice(matrix.data()),
    }
}

pub(super) fn matrix_mut_from_abi(matrix: AbiMatrixMut<'_>) -> Result<MatrixMut<'_>> {
    MatrixMut::with_stride(
        matrix.data.into_mut_slice(),
        size(matrix.rows)?,
        size(matrix.cols)?,
        size(matrix.row_stride)?,
        DType::from_code(matrix.dtype)?,
    )
}

pub(super) fn size(value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::InvalidArgument(format!("size {value} exceeds this machine's")))
}

pub(super) fn plan_to_abi(layout: &Layout, workspace_bytes: u64) -> Result<AbiPlan> {
    layout.validate()?;
    let buffers = layout.buffers().into_iter().map(|buffer| AbiBufferSpec {
        name: RString::from(buffer.name.as_str()),
        bytes: buffer.bytes as u64,
        dtype: buffer.dtype.to_code(),
    });
    Ok(AbiPlan {
        layout_kind: RString::from(layout.kind()),
        layout_json: RString::from(layout.to_json()?),
        buffers: buffers.collect(),
        workspace_bytes,
    })
}

/// The layout of a plan, whose buffers must be those that the description asks for.
pub(super) fn plan_from_abi(plan: &AbiPlan) -> Result<Layout> {
    let layout = Layout::from_json(&plan.layout_json)?;
    let declared = plan.buffers.iter().map(|buffer| {
        Ok(BufferSpec {
            name: buffer.name.to_string(),
            bytes: size(buffer.bytes)?,
            dtype: DType::from_code(buffer.dtype)?,
        })
    });
    if declared.collect::<Result<Vec<_>>>()? == layout.buffers() {
        Ok(layout)
    } else {
        Err(Error::InvalidArgument(format!(
            "the buffers of layout {} do not follow from its description",
            layout.kind()
        )))
    }
}

extern "C" fn never_cancelled() -> bool {
    false
}

pub(super) fn context_to_abi(context: CallContext) -> AbiCallContext {
    AbiCallContext {
        threads: u32::try_from(context.threads).unwrap_or(u32::MAX),
        cancelled: never_cancelled,
    }
}

pub(super) fn context_from_abi(context: AbiCallContext) -> CallContext {
    CallContext {
        threads: (context.threads as usize).max(1),
    }
}
