//! What Hopper's copy engine knows of a matrix.

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType_enum as DataType, CUtensorMapFloatOOBfill_enum as Outside,
    CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as Promotion,
    CUtensorMapSwizzle_enum as Swizzle,
};

use crate::{CUdeviceptr, Result, error::check};

/// A row-major matrix in device memory, and the box of it that one copy brings.
pub(crate) struct Tiles {
    /// The first element, aligned to 16 bytes.
    pub(crate) address: CUdeviceptr,
    /// Bytes an element: 1, or 2.
    pub(crate) element: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Elements from one row to the next, a multiple of 16 bytes.
    pub(crate) pitch: usize,
    pub(crate) box_rows: usize,
    pub(crate) box_cols: usize,
    /// Whether rows of 128 bytes are put down in the order that the tensor cores read; otherwise one after the other.
    pub(crate) swizzled: bool,
}

impl Tiles {
    /// The map, to be passed to a kernel by value.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) when the matrix is not aligned as it must be, or has no element.
    pub(crate) fn map(&self) -> Result<CUtensorMap> {
        let mut map = CUtensorMap { opaque: [0; 16] };
        let sizes = [self.cols as u64, self.rows as u64];
        let strides = [(self.pitch * self.element) as u64];
        let tile = [self.box_cols as u32, self.box_rows as u32];
        let data_type = if self.element == 1 {
            DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8
        } else {
            DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16
        };
        let swizzle = if self.swizzled {
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B
        } else {
            Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE
        };
        // SAFETY: the arrays are as long as the rank says; the address is not followed here.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                data_type,
                2,
                self.address as *mut core::ffi::c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                [1, 1].as_ptr(),
                Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                Outside::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check(result, || {
            format!(
                "cuTensorMapEncodeTiled({} x {} of {} bytes, pitch {})",
                self.rows, self.cols, self.element, self.pitch
            )
        })?;
        Ok(map)
    }
}
