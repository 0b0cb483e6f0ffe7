//! Keys and values of earlier passes of one layer.

use candle_core::cuda_backend::cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype};
use qbench_kernels::CUdeviceptr;
use qbench_sdk::{Error, Result};

use crate::{buffer::Buffer, error, gpu::Gpu};

/// Positions that the room for a cache grows by at least.
const STEP: usize = 256;

/// Two matrices, `[batch, capacity, width]` each, filled up to the pass's past.
pub(crate) struct KeyValues {
    batch: usize,
    /// Bytes a position.
    row: usize,
    capacity: usize,
    room: Option<[Buffer; 2]>,
}

impl KeyValues {
    pub(crate) fn new(batch: usize, width: usize, element_bytes: usize) -> Self {
        Self {
            batch,
            row: width * element_bytes,
            capacity: 0,
            room: None,
        }
    }

    /// Positions between two sequences.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends `[batch, length, width]` after `past` positions and gives the addresses of all keys and all values.
    pub(crate) fn append(
        &mut self,
        gpu: &Gpu,
        new: [CUdeviceptr; 2],
        past: usize,
        length: usize,
    ) -> Result<[CUdeviceptr; 2]> {
        self.reserve(gpu, past, past + length)?;
        let addresses = self.addresses()?;
        for (from, to) in new.into_iter().zip(addresses) {
            self.copy(
                gpu,
                (from, length),
                (to + (past * self.row) as u64, self.capacity),
                length,
            )?;
        }
        Ok(addresses)
    }

    /// The addresses of all keys and all values, once there is room for any.
    pub(crate) fn addresses(&self) -> Result<[CUdeviceptr; 2]> {
        match &self.room {
            Some(room) => Ok([room[0].address(), room[1].address()]),
            None => Err(Error::Internal("a cache without memory".to_owned())),
        }
    }

    /// Makes room for `needed` positions, and moves the `past` ones there are where it must.
    pub(crate) fn reserve(&mut self, gpu: &Gpu, past: usize, needed: usize) -> Result<()> {
        if needed > self.capacity {
            self.grow(gpu, past, needed)?;
        }
        Ok(())
    }

    fn grow(&mut self, gpu: &Gpu, past: usize, needed: usize) -> Result<()> {
        let old = self.capacity;
        let capacity = needed.max(2 * old).next_multiple_of(STEP);
        let bytes = self.batch * capacity * self.row;
        let room = [gpu.buffer(bytes)?, gpu.buffer(bytes)?];
        if let Some(before) = self.room.take().filter(|_| past > 0) {
            for (from, to) in before.iter().zip(&room) {
                self.copy(gpu, (from.address(), old), (to.address(), capacity), past)?;
            }
        }
        self.room = Some(room);
        self.capacity = capacity;
        Ok(())
    }

    /// Copies `length` positions of each sequence between matrices whose sequences lie so many positions apart.
    fn copy(
        &self,
        gpu: &Gpu,
        (from, from_stride): (CUdeviceptr, usize),
        (to, to_stride): (CUdeviceptr, usize),
        length: usize,
    ) -> Result<()> {
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: from,
            srcArray: std::ptr::null_mut(),
            srcPitch: from_stride * self.row,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: to,
            dstArray: std::ptr::null_mut(),
            dstPitch: to_stride * self.row,
            WidthInBytes: length * self.row,
            Height: self.batch,
        };
        // SAFETY: both matrices hold `batch` rows of these pitches, and the stream passes the copy before they are freed.
        unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, gpu.stream()) }
            .result()
            .map_err(error::driver)
    }
}
