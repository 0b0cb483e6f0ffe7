//! Between the host's bytes and torch's tensors.

use qbench_sdk::{DType, Error, Result};
use tch::{Device, Kind, Tensor};

use crate::error::Named;

/// Torch's name of a type.
pub(crate) fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::F32 => Kind::Float,
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::I8 => Kind::Int8,
        DType::U8 => Kind::Uint8,
    }
}

/// A tensor on the CPU over memory of the host.
///
/// # Safety
/// The memory stays, and nothing writes to it, as long as the tensor or a view of it is used.
pub(crate) unsafe fn view(bytes: &[u8], shape: &[i64], dtype: DType) -> Result<Tensor> {
    let expected = shape.iter().product::<i64>() as usize * dtype.size();
    if bytes.len() != expected {
        return Err(Error::Internal(format!(
            "{} bytes for a tensor {shape:?} of {dtype}",
            bytes.len()
        )));
    }
    // Torch takes a null address for an empty tensor only, and Rust's is dangling there.
    // SAFETY: the memory has the size of the shape, and stays as the caller promises.
    unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &strides(shape), kind(dtype), Device::Cpu) }
        .op("from_blob")
}

/// A copy of the bytes on a device; they may change once this returns.
pub(crate) fn upload(bytes: &[u8], shape: &[i64], dtype: DType, device: Device) -> Result<Tensor> {
    let mut tensor = Tensor::f_empty(shape, (kind(dtype), device)).op("empty")?;
    // SAFETY: the view is read before `bytes` may change: copies from memory that is not pinned are done on return.
    let bytes = unsafe { view(bytes, shape, dtype) }?;
    tensor.f_copy_(&bytes).op("copy_")?;
    Ok(tensor)
}

/// Writes a tensor as f32, once everything before it is done.
pub(crate) fn download(tensor: &Tensor, out: &mut [f32]) -> Result<()> {
    let shape = tensor.size();
    if shape.iter().product::<i64>() as usize != out.len() {
        return Err(Error::Internal(format!(
            "room for {} values, a tensor {shape:?} is written",
            out.len()
        )));
    }
    let address = out.as_mut_ptr().cast::<u8>();
    // SAFETY: `out` has the tensor's number of values, nobody else holds it, and the tensor over it ends here.
    let mut out = unsafe { Tensor::f_from_blob(address, &shape, &strides(&shape), Kind::Float, Device::Cpu) }
        .op("from_blob")?;
    out.f_copy_(tensor).op("copy_")
}

/// Of a tensor whose rows lie one after the other.
fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for index in (1..shape.len()).rev() {
        strides[index - 1] = strides[index] * shape[index].max(1);
    }
    strides
}
