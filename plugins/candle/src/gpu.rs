//! One GPU: candle's device, our kernels in its context, its memory.

use std::{
    cell::{OnceCell, RefCell},
    sync::Arc,
};

use candle_core::{
    CudaDevice,
    cuda_backend::cudarc::{
        cublas,
        driver::{
            CudaEvent, CudaGraph, CudaStream,
            result::{device, mem_pool, memcpy_htod_async, memset_d8_async},
            sys::{
                CUevent_flags, CUgraphInstantiate_flags, CUmemPool_attribute, CUmemoryPool,
                CUstreamCaptureMode,
            },
        },
    },
};
use qbench_kernels::{
    CUdeviceptr, CUstream, Element, attention::Attention, attention_step::AttentionStep,
    codebook_dequantize::Dequantize, codebook_few, codebook_many, dense_few, elementwise::Elementwise,
    int8_any, int8_few, int8_many, int8_quantize, norm::Norm, rope::Rope, rows::Rows,
    scheme_kernel::SchemeKernels,
};
use qbench_sdk::{
    DType, Error, Result,
    backend::Memory,
    log::{Level, log},
};

use crate::{
    buffer::{Buffer, Scratch},
    driver::{COMPILED_FOR, Found},
    error, fp8,
};

/// Scratch memory of cuBLAS, as large as NVIDIA advises for Hopper. Ours, so that it is counted.
pub(crate) const WORKSPACE: usize = 32 << 20;

/// A GPU in use by one model.
pub(crate) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    pool: CUmemoryPool,
    capability: (i32, i32),
    pub(crate) kernels: Kernels,
    /// Loaded when the first weight needs them.
    fp8: OnceCell<fp8::Kernels>,
    /// Those that schemes brought.
    pub(crate) scheme_kernels: SchemeKernels,
    /// Where buffers come from while operations run that are to be repeated.
    scratch: RefCell<Option<Arc<Scratch>>>,
    workspace: Buffer,
}

// SAFETY: the pool's handle belongs to the device, not to a thread; everything else is Send.
unsafe impl Send for Gpu {}

/// Every kernel, loaded.
pub(crate) struct Kernels {
    pub(crate) attention: Attention,
    pub(crate) attention_step: AttentionStep,
    pub(crate) codebook_few: codebook_few::Few,
    /// On Hopper only, as the other `many`.
    pub(crate) codebook_many: Option<codebook_many::Many>,
    pub(crate) dense_few: dense_few::Few,
    pub(crate) dequantize: Dequantize,
    pub(crate) elementwise: Elementwise,
    pub(crate) int8_any: int8_any::Any,
    pub(crate) int8_few: int8_few::Few,
    pub(crate) int8_many: Option<int8_many::Many>,
    pub(crate) int8_quantize: int8_quantize::Quantize,
    pub(crate) norm: Norm,
    pub(crate) rope: Rope,
    pub(crate) rows: Rows,
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
        let Found { ordinal, capability } = found;
        let (major, _) = capability;
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
        let workspace = Buffer::new(&stream, WORKSPACE)?;
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
            capability,
            kernels,
            fp8: OnceCell::new(),
            scheme_kernels: SchemeKernels::default(),
            scratch: RefCell::new(None),
            workspace,
        })
    }

    /// Makes the device the one that this thread's calls go to.
    pub(crate) fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(error::driver)
    }

    /// Major and minor compute capability.
    pub(crate) fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// The kernels of products in e4m3.
    pub(crate) fn fp8(&self) -> Result<&fp8::Kernels> {
        if let Some(kernels) = self.fp8.get() {
            return Ok(kernels);
        }
        let kernels = fp8::Kernels::load()?;
        Ok(self.fp8.get_or_init(|| kernels))
    }

    /// [`WORKSPACE`] bytes of scratch memory that the libraries' products share, in the order of the stream.
    pub(crate) fn workspace(&self) -> CUdeviceptr {
        self.workspace.address()
    }

    pub(crate) fn stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    pub(crate) fn blas(&self) -> cublas::sys::cublasHandle_t {
        *self.device.cublas_handle().handle()
    }

    /// Memory that holds anything.
    pub(crate) fn buffer(&self, bytes: usize) -> Result<Buffer> {
        match &*self.scratch.borrow() {
            Some(scratch) => scratch.buffer(&self.stream, bytes),
            None => Buffer::new(&self.stream, bytes),
        }
    }

    /// Memory that holds anything and outlasts what runs now.
    pub(crate) fn lasting_buffer(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(&self.stream, bytes)
    }

    /// Runs `operations` with all their buffers from `scratch`.
    pub(crate) fn within<T>(
        &self,
        scratch: &Arc<Scratch>,
        operations: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        *self.scratch.borrow_mut() = Some(scratch.clone());
        let result = operations();
        *self.scratch.borrow_mut() = None;
        result
    }

    /// Records what `operations` give the stream, without running it.
    pub(crate) fn record_graph(&self, operations: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(error::driver)?;
        let result = operations();
        // Also after an error: the stream would stay in recording.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        result?;
        graph
            .map_err(error::driver)?
            .ok_or_else(|| Error::Internal("an empty recording".to_owned()))
    }

    /// Sets the first bytes of a buffer to zero.
    pub(crate) fn clear(&self, buffer: &Buffer, bytes: usize) -> Result<()> {
        assert!(bytes <= buffer.bytes(), "more bytes than a buffer has");
        // SAFETY: the buffer is as long.
        unsafe { memset_d8_async(buffer.address(), 0, bytes, self.stream()) }.map_err(error::driver)
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
    #[expect(clippy::unused_self, reason = "beside `upload`")]
    pub(crate) fn download(&self, buffer: &Buffer, values: &mut [f32]) -> Result<()> {
        buffer.read(bytemuck::cast_slice_mut(values))
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
            attention_step: AttentionStep::load()?,
            codebook_few: codebook_few::Few::load()?,
            codebook_many: codebook_many::Many::load()?,
            dense_few: dense_few::Few::load()?,
            dequantize: Dequantize::load()?,
            elementwise: Elementwise::load()?,
            int8_any: int8_any::Any::load()?,
            int8_few: int8_few::Few::load()?,
            int8_many: int8_many::Many::load()?,
            int8_quantize: int8_quantize::Quantize::load()?,
            norm: Norm::load()?,
            rope: Rope::load()?,
            rows: Rows::load()?,
        })
    }
}
