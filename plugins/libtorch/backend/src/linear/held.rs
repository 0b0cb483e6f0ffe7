//! The buffers of a stored weight as tensors on a device.

use qbench_sdk::{DType, Layout, Result, StoredTensor};
use tch::{Device, Tensor};

use crate::tensors::{upload, view};

/// A weight's buffers, in the order of its layout. On the CPU they are the host's own memory, kept.
pub(crate) struct Held {
    tensors: Vec<Tensor>,
    // After the tensors, which look into it.
    _stored: Option<Box<dyn StoredTensor>>,
}

impl Held {
    /// Takes over a weight of this layout, whose buffers' sizes were checked.
    pub(super) fn new(stored: Box<dyn StoredTensor>, layout: &Layout, device: Device) -> Result<Self> {
        let mut all_viewed = true;
        let tensors = layout
            .buffers()
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                let bytes = stored.buffer(index);
                let shape = shape(layout, index, spec.bytes / spec.dtype.size());
                if device == Device::Cpu && aligned(bytes, spec.dtype) {
                    // SAFETY: the tensor lives beside the stored weight, which never changes.
                    unsafe { view(bytes, &shape, spec.dtype) }
                } else {
                    all_viewed = false;
                    upload(bytes, &shape, spec.dtype, device)
                }
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            tensors,
            _stored: all_viewed.then_some(stored),
        })
    }

    /// A weight that was made here.
    pub(super) fn made(tensors: Vec<Tensor>) -> Self {
        Self {
            tensors,
            _stored: None,
        }
    }

    /// A buffer by its place in the layout.
    pub(super) fn tensor(&self, index: usize) -> &Tensor {
        &self.tensors[index]
    }

    /// All buffers.
    pub(crate) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }
}

/// Matrices of elements keep their shape, everything else is a vector.
fn shape(layout: &Layout, index: usize, elements: usize) -> Vec<i64> {
    match layout {
        Layout::Dense(_) | Layout::Int8Vectorwise(_) | Layout::ScaledFp8(_) if index == 0 => {
            vec![layout.rows() as i64, layout.cols() as i64]
        }
        _ => vec![elements as i64],
    }
}

/// Mapped files may hold elements at odd addresses, which torch's kernels are not made for.
fn aligned(bytes: &[u8], dtype: DType) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(dtype.size().max(16))
}
