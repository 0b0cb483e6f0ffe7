//! Memory on the device.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

#[cfg(test)]
use candle_core::cuda_backend::cudarc::driver::result::memset_d8_async;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DriverError, sys::CUresult,
};
use qbench_kernels::CUdeviceptr;
use qbench_sdk::{Error, Result};

use crate::error;

/// Bytes on the device, aligned to 256. When dropped they are freed in the order of the stream, or go back to the
/// [`Scratch`] that they came from.
pub(crate) struct Buffer {
    /// Empty only while it is dropped.
    slice: Option<CudaSlice<u8>>,
    home: Option<Arc<Scratch>>,
}

impl Buffer {
    /// Memory that holds anything.
    pub(crate) fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let slice = allocate(stream, bytes)?;
        Ok(Self {
            slice: Some(slice),
            home: None,
        })
    }

    fn slice(&self) -> &CudaSlice<u8> {
        match &self.slice {
            Some(slice) => slice,
            None => unreachable!("a buffer holds its memory until it is dropped"),
        }
    }

    pub(crate) fn address(&self) -> CUdeviceptr {
        let slice = self.slice();
        slice.device_ptr(slice.stream()).0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slice().num_bytes()
    }

    /// Copies the first bytes to the host, once everything before it is done.
    pub(crate) fn read(&self, bytes: &mut [u8]) -> Result<()> {
        let slice = self.slice();
        slice
            .stream()
            .memcpy_dtoh(&slice.slice(..bytes.len()), bytes)
            .map_err(error::driver)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(home), Some(slice)) = (&self.home, self.slice.take()) {
            home.keep(slice);
        }
    }
}

/// Memory of operations that will be repeated: what they drop is kept, so that the same operations, given again, get the
/// same sizes without asking the driver, which nothing may do while a stream is recorded.
#[derive(Default)]
pub(crate) struct Scratch {
    /// By size.
    free: Mutex<HashMap<usize, Vec<CudaSlice<u8>>>>,
    bytes: AtomicUsize,
}

impl Scratch {
    /// Memory that holds anything: of this size and dropped before, or new.
    pub(crate) fn buffer(self: &Arc<Self>, stream: &Arc<CudaStream>, bytes: usize) -> Result<Buffer> {
        let kept = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&bytes.max(1))
            .and_then(Vec::pop);
        let slice = if let Some(slice) = kept {
            poison(&slice)?;
            slice
        } else {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            allocate(stream, bytes)?
        };
        Ok(Buffer {
            slice: Some(slice),
            home: Some(self.clone()),
        })
    }

    /// All bytes that were ever asked of the driver.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn keep(&self, slice: CudaSlice<u8>) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(slice.num_bytes())
            .or_default()
            .push(slice);
    }
}

fn allocate(stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>> {
    // SAFETY: bytes hold any value; whoever asks writes before it reads.
    let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) }
        .map_err(|error| allocation_error(stream, bytes, error))?;
    poison(&slice)?;
    Ok(slice)
}

/// Fills memory with bytes of NaN: a test sees what is read before it is written.
#[cfg(test)]
fn poison(slice: &CudaSlice<u8>) -> Result<()> {
    let stream = slice.stream();
    // SAFETY: the memory has this size.
    unsafe {
        memset_d8_async(
            slice.device_ptr(stream).0,
            0xff,
            slice.num_bytes(),
            stream.cu_stream(),
        )
    }
    .map_err(error::driver)
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "as in tests")]
fn poison(_: &CudaSlice<u8>) -> Result<()> {
    Ok(())
}

fn allocation_error(stream: &CudaStream, bytes: usize, error: DriverError) -> Error {
    if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return error::driver(error);
    }
    Error::OutOfMemory(out_of_memory(bytes, stream.context().mem_get_info().ok()))
}

/// What a row says that did not fit: bytes asked for; bytes free and in all, where the driver still tells.
fn out_of_memory(asked: usize, free_of_total: Option<(usize, usize)>) -> String {
    let gigabytes = |bytes: usize| bytes as f64 / 1e9;
    match free_of_total {
        Some((free, total)) => format!(
            "{:.3} GB asked for, {:.3} GB of the GPU's {:.1} GB are free: take a smaller batch, shorter sequences, or \
             another mode",
            gigabytes(asked),
            gigabytes(free),
            gigabytes(total)
        ),
        None => format!("{:.3} GB asked for on the GPU", gigabytes(asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_and_what_is_free_is_said() {
        let text = out_of_memory(3_500_000_000, Some((1_250_000_000, 150_000_000_000)));
        assert!(
            text.starts_with("3.500 GB asked for, 1.250 GB of the GPU's 150.0 GB are free"),
            "{text}"
        );
        assert_eq!(out_of_memory(1_000_000, None), "0.001 GB asked for on the GPU");
    }
}
