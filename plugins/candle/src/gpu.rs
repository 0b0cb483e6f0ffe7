//! One GPU: candle's device, our kernels in its context, its memory.

use std::sync::Arc;

#[cfg(test)]
use candle_core::cuda_backend::cudarc::driver::result::memset_d8_async;
use candle_core::{
    CudaDevice, CudaStorage, DType as CandleType, Storage, Tensor,
    cuda_backend::cudarc::{
        cublas,
        driver::{
            CudaEvent, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError,
            result::{device, mem_pool, memcpy_htod_async},
            sys::{CUevent_flags, CUmemPool_attribute, CUmemoryPool, CUresult},
        },
    },
    op::BackpropOp,
};
use half::{bf16, f16};
use qbench_kernels::{
    CUdeviceptr, CUstream, Element, attention::Attention, codebook_dequantize::Dequantize, codebook_few,
    codebook_many, dense_few, elementwise::Elementwise, int8_any, int8_many, int8_quantize, norm::Norm,
    rope::Rope, rows::Rows,
};
use qbench_sdk::{
    DType, Error, Result,
    backend::Memory,
    log::{Level, log},
};

use crate::{
    driver::{COMPILED_FOR, Found},
    error,
};

/// Scratch memory of cuBLAS, as large as NVIDIA advises for Hopper. Ours, so that it is counted.
const WORKSPACE: usize = 32 << 20;

/// A GPU in use by one model.
pub(crate) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    pool: CUmemoryPool,
    major: i32,
    pub(crate) kernels: Kernels,
    _workspace: Buffer,
}

// SAFETY: the pool's handle belongs to the device, not to a thread; everything else is Send.
unsafe impl Send for Gpu {}

/// Every kernel, loaded.
pub(crate) struct Kernels {
    pub(crate) attention: Attention,
    pub(crate) codebook_few: codebook_few::Few,
    /// On Hopper only, as the other `many`.
    pub(crate) codebook_many: Option<codebook_many::Many>,
    pub(crate) dense_few: dense_few::Few,
    pub(crate) dequantize: Dequantize,
    pub(crate) elementwise: Elementwise,
    pub(crate) int8_any: int8_any::Any,
    pub(crate) int8_many: Option<int8_many::Many>,
    pub(crate) int8_quantize: int8_quantize::Quantize,
    pub(crate) norm: Norm,
    pub(crate) rope: Rope,
    pub(crate) rows: Rows,
}

/// Bytes on the device, aligned to 256; freed in the order of the stream when dropped.
pub(crate) struct Buffer(CudaSlice<u8>);

impl Buffer {
    pub(crate) fn address(&self) -> CUdeviceptr {
        self.0.device_ptr(self.0.stream()).0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.num_bytes()
    }
}

/// The kernels' name of a float type.
pub(crate) fn element(dtype: DType) -> Result<Element> {
    match dtype {
        DType::F32 => Ok(Element::F32),
        DType::F16 => Ok(Element::F16),
        DType::BF16 => Ok(Element::BF16),
        DType::I8 | DType::U8 => Err(Error::Unsupported(format!(
            "precision {dtype}; known: f32, f16, bf16"
        ))),
    }
}

impl Gpu {
    pub(crate) fn open(found: Found) -> Result<Self> {
        let Found { ordinal, major } = found;
        let device = CudaDevice::new_with_stream(ordinal)
            .map_err(|error| Error::Internal(format!("device cuda:{ordinal}: {error}")))?;
        // SAFETY: everything runs on the one stream that allocates and frees, so its order is synchronisation enough.
        unsafe { device.disable_event_tracking() };
        let stream = device.cuda_stream();
        let context = stream.context();
        if !COMPILED_FOR.contains(&major) {
            log(
                Level::Warning,
                "candle",
                &format!(
                    "the kernels were not compiled for compute capability {major}.x: the driver compiles them \
                     now, which takes some seconds once"
                ),
            );
        }
        // SAFETY: the handle is the device's.
        let pool = unsafe { device::get_default_mem_pool(context.cu_device()) }.map_err(error::driver)?;
        let mut keep_all = u64::MAX;
        // SAFETY: the pool is the device's; this attribute is a u64.
        unsafe {
            mem_pool::set_attribute(
                pool,
                CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut keep_all).cast(),
            )
        }
        .map_err(error::driver)?;
        let kernels = Kernels::load().map_err(error::kernel)?;
        let workspace = allocate(&stream, WORKSPACE).map(Buffer)?;
        // SAFETY: the workspace lives as long as the handle, which the device holds, and is used on its stream only.
        unsafe {
            cublas::sys::cublasSetWorkspace_v2(
                *device.cublas_handle().handle(),
                workspace.address() as *mut _,
                WORKSPACE,
            )
        }
        .result()
        .map_err(error::blas)?;
        Ok(Self {
            device,
            stream,
            pool,
            major,
            kernels,
            _workspace: workspace,
        })
    }

    /// Makes the device the one that this thread's calls go to.
    pub(crate) fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(error::driver)
    }

    /// The major compute capability.
    pub(crate) fn major(&self) -> i32 {
        self.major
    }

    pub(crate) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    pub(crate) fn blas(&self) -> cublas::sys::cublasHandle_t {
        *self.device.cublas_handle().handle()
    }

    /// Memory that holds anything.
    pub(crate) fn buffer(&self, bytes: usize) -> Result<Buffer> {
        allocate(&self.stream, bytes).map(Buffer)
    }

    /// A copy of `bytes`; they may change once this returns.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.buffer(bytes.len())?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// Copies `bytes` into a buffer, from its byte `first` on; they may change once this returns.
    pub(crate) fn write(&self, buffer: &Buffer, first: usize, bytes: &[u8]) -> Result<()> {
        assert!(
            first + bytes.len() <= buffer.bytes(),
            "more bytes than a buffer has"
        );
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the buffer has room.
        unsafe { self.write_at(buffer.address() + first as u64, bytes) }
    }

    /// Copies `bytes` to an address; they may change once this returns.
    ///
    /// # Safety
    /// There is room for them.
    pub(crate) unsafe fn write_at(&self, address: CUdeviceptr, bytes: &[u8]) -> Result<()> {
        // SAFETY: as the caller promises. From memory that is not pinned the driver copies before it returns; cudarc's
        // own copy would wait for the stream as well.
        unsafe { memcpy_htod_async(address, bytes, self.stream()) }.map_err(error::driver)
    }

    /// Copies `values` from the device, once everything before it is done.
    pub(crate) fn download(&self, buffer: &Buffer, values: &mut [f32]) -> Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        let view = buffer.0.slice(..bytes.len());
        self.stream.memcpy_dtoh(&view, bytes).map_err(error::driver)
    }

    /// Activations `[rows, width]` that hold anything.
    pub(crate) fn tensor(&self, rows: usize, width: usize, dtype: DType) -> Result<Tensor> {
        let values = rows * width;
        let storage = match dtype {
            DType::F32 => self.storage::<f32>(values)?,
            DType::F16 => self.storage::<f16>(values)?,
            DType::BF16 => self.storage::<bf16>(values)?,
            DType::I8 | DType::U8 => return Err(Error::Unsupported(format!("activations of {dtype}"))),
        };
        Ok(Tensor::from_storage(
            Storage::Cuda(storage),
            (rows, width),
            BackpropOp::none(),
            false,
        ))
    }

    fn storage<T: DeviceRepr + candle_core::cuda_backend::CudaDType>(
        &self,
        values: usize,
    ) -> Result<CudaStorage> {
        let slice = allocate::<T>(&self.stream, values)?;
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(error::driver)
    }

    /// An event with a time.
    pub(crate) fn event(&self) -> Result<CudaEvent> {
        self.stream
            .context()
            .new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
            .map_err(error::driver)
    }

    pub(crate) fn record(&self, event: &CudaEvent) -> Result<()> {
        event.record(&self.stream).map_err(error::driver)
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let read = |attribute| -> Result<u64> {
            let mut value = 0_u64;
            // SAFETY: the pool is the device's; the attributes asked for are u64.
            unsafe { mem_pool::get_attribute(self.pool, attribute, (&raw mut value).cast()) }
                .map_err(error::driver)?;
            Ok(value)
        };
        Ok(Memory {
            allocated: read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
            peak_allocated: read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
            reserved: Some(read(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?),
            measured_by: "CUDA's memory pool".to_owned(),
        })
    }

    pub(crate) fn reset_peak_memory(&self) -> Result<()> {
        // Zero, the only value that may be set, starts a new peak from what is held now.
        let mut zero = 0_u64;
        // SAFETY: as in `memory`.
        unsafe {
            mem_pool::set_attribute(
                self.pool,
                CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
                (&raw mut zero).cast(),
            )
        }
        .map_err(error::driver)
    }
}

impl Kernels {
    fn load() -> qbench_kernels::Result<Self> {
        Ok(Self {
            attention: Attention::load()?,
            codebook_few: codebook_few::Few::load()?,
            codebook_many: codebook_many::Many::load()?,
            dense_few: dense_few::Few::load()?,
            dequantize: Dequantize::load()?,
            elementwise: Elementwise::load()?,
            int8_any: int8_any::Any::load()?,
            int8_many: int8_many::Many::load()?,
            int8_quantize: int8_quantize::Quantize::load()?,
            norm: Norm::load()?,
            rope: Rope::load()?,
            rows: Rows::load()?,
        })
    }
}

/// The address of a tensor's first element. Tensors made by [`Gpu::tensor`] are contiguous and start at their storage.
pub(crate) fn address(tensor: &Tensor) -> Result<CUdeviceptr> {
    fn of<T>(slice: &CudaSlice<T>) -> CUdeviceptr {
        slice.device_ptr(slice.stream()).0
    }
    let candle = |error: candle_core::Error| Error::Internal(format!("candle: {error}"));
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::Internal("a tensor that is not on the GPU".to_owned()));
    };
    match tensor.dtype() {
        CandleType::F32 => storage.as_cuda_slice::<f32>().map(of),
        CandleType::F16 => storage.as_cuda_slice::<f16>().map(of),
        CandleType::BF16 => storage.as_cuda_slice::<bf16>().map(of),
        other => return Err(Error::Internal(format!("activations of {other:?}"))),
    }
    .map_err(candle)
}

fn allocate<T: DeviceRepr>(stream: &Arc<CudaStream>, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: all types asked for here are plain numbers; whoever asks writes before it reads.
    let slice = unsafe { stream.alloc::<T>(count.max(1)) }
        .map_err(|error| allocation_error(stream, count * size_of::<T>(), error))?;
    // Bytes of NaN: a test sees what is read before it is written.
    #[cfg(test)]
    // SAFETY: the memory was just allocated with this size.
    unsafe {
        memset_d8_async(
            slice.device_ptr(stream).0,
            0xff,
            slice.num_bytes(),
            stream.cu_stream(),
        )
    }
    .map_err(error::driver)?;
    Ok(slice)
}

fn allocation_error(stream: &CudaStream, bytes: usize, error: DriverError) -> Error {
    if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return error::driver(error);
    }
    let gigabytes = |bytes: usize| bytes as f64 / 1e9;
    match stream.context().mem_get_info() {
        Ok((free, total)) => Error::OutOfMemory(format!(
            "{:.3} GB asked for, {:.3} GB of the GPU's {:.1} GB are free: take a smaller batch, shorter sequences, or \
             another mode",
            gigabytes(bytes),
            gigabytes(free),
            gigabytes(total)
        )),
        Err(_) => Error::OutOfMemory(format!("{:.3} GB asked for on the GPU", gigabytes(bytes))),
    }
}
