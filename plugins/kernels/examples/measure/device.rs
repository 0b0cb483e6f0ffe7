//! Device memory, streams and clocks, as little of them as the measurements need.

use std::{ffi::c_void, marker::PhantomData, ptr};

use cudarc::{
    cublas::{result as blas, sys as blas_sys},
    driver::{
        result::{self, event, graph, stream},
        sys,
    },
};
use qbench_kernels::{CUdeviceptr, CUstream, Error};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The first GPU, its context current, with one stream and cuBLAS on it.
pub(crate) struct Device {
    pub(crate) stream: CUstream,
    pub(crate) name: String,
    pub(crate) blas: blas_sys::cublasHandle_t,
}

impl Device {
    pub(crate) fn open() -> Result<Self> {
        // SAFETY: opening the driver's library runs only its own initialisers.
        if !unsafe { sys::is_culib_present() } {
            return Err(Box::new(qbench_kernels::Error::NoDriver));
        }
        result::init()?;
        let device = result::device::get(0)?;
        // SAFETY: the device exists; the context is kept until the process ends.
        let context = unsafe { result::primary_ctx::retain(device)? };
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context)? };
        let stream = stream::create(stream::StreamKind::NonBlocking)?;
        let blas = blas::create_handle()?;
        // SAFETY: both are alive; the two libraries' stream types are one.
        unsafe { blas::set_stream(blas, stream.cast())? };
        Ok(Self {
            stream,
            name: result::device::get_name(device)?,
            blas,
        })
    }

    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { stream::synchronize(self.stream)? };
        Ok(())
    }

    /// Records `count` launches as a CUDA graph. `launch` is told which launch it is, to take turns among its inputs.
    pub(crate) fn record(
        &self,
        count: usize,
        launch: impl Fn(usize) -> qbench_kernels::Result<()>,
    ) -> Result<Recorded> {
        launch(0)?;
        self.wait()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and captures nothing yet.
        unsafe { stream::begin_capture(self.stream, mode)? };
        let launched = (0..count).try_for_each(launch);
        // SAFETY: the stream is capturing.
        let captured = unsafe { stream::end_capture(self.stream) };
        launched?;
        let captured = captured?;
        let mut graph = ptr::null_mut();
        // SAFETY: the graph was just captured; `graph` is a place for one handle, and the captured one is not needed once
        // there is that.
        unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&raw mut graph, captured, 0).result();
            graph::destroy(captured)?;
            made?;
        }
        Ok(Recorded { graph, count })
    }

    /// Microseconds of one launch of each: the medians of `replays`, which take turns, so that what the card's clock does
    /// meets all alike. What they use must be there still.
    pub(crate) fn time_in_turn(&self, recorded: &[&Recorded], replays: usize) -> Result<Vec<f64>> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let (start, end) = (event::create(flags)?, event::create(flags)?);
        let mut times = vec![Vec::new(); recorded.len()];
        for replay in 0..replays + 2 {
            for (recorded, times) in recorded.iter().zip(&mut times) {
                // SAFETY: graph, events and stream are alive.
                unsafe {
                    event::record(start, self.stream)?;
                    graph::launch(recorded.graph, self.stream)?;
                    event::record(end, self.stream)?;
                    event::synchronize(end)?;
                    if replay >= 2 {
                        times.push(f64::from(event::elapsed(start, end)?) * 1e3 / recorded.count as f64);
                    }
                }
            }
        }
        // SAFETY: nothing uses them any more.
        unsafe {
            event::destroy(start)?;
            event::destroy(end)?;
        }
        let median = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        Ok(times.into_iter().map(median).collect())
    }

    /// Microseconds of one of `count` launches: the median of `replays`.
    pub(crate) fn time(
        &self,
        count: usize,
        replays: usize,
        launch: impl Fn(usize) -> qbench_kernels::Result<()>,
    ) -> Result<f64> {
        let times = self.time_in_turn(&[&self.record(count, launch)?], replays)?;
        Ok(times[0])
    }

    /// `y = x · weightᵀ` by cuBLAS in bf16: `x` `[tokens, cols]`, `weight` `[rows, cols]`.
    pub(crate) fn dense(
        &self,
        weight: CUdeviceptr,
        (rows, cols): (usize, usize),
        x: CUdeviceptr,
        tokens: usize,
        y: CUdeviceptr,
    ) -> qbench_kernels::Result<()> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        let bf16 = blas_sys::cudaDataType::CUDA_R_16BF;
        // SAFETY: the matrices are as long as said, column-major as cuBLAS sees them.
        unsafe {
            blas::gemm_ex(
                self.blas,
                blas_sys::cublasOperation_t::CUBLAS_OP_T,
                blas_sys::cublasOperation_t::CUBLAS_OP_N,
                rows as i32,
                tokens as i32,
                cols as i32,
                (&raw const one).cast(),
                weight as *const c_void,
                bf16,
                cols as i32,
                x as *const c_void,
                bf16,
                cols as i32,
                (&raw const zero).cast(),
                y as *mut c_void,
                bf16,
                rows as i32,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|error| Error::Blas {
            call: "cublasGemmEx",
            status: format!("{:?}", error.0),
        })
    }
}

/// Launches in a CUDA graph.
pub(crate) struct Recorded {
    graph: sys::CUgraphExec,
    count: usize,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: the graph is ours, and each replay was waited for.
        let _ = unsafe { graph::exec_destroy(self.graph) };
    }
}

/// Device memory for elements of one type.
pub(crate) struct Buffer<T> {
    pub(crate) at: CUdeviceptr,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Copy + Default> Buffer<T> {
    /// Memory whose every byte is 0xff: NaN in every float type, so that what is not written is seen.
    pub(crate) fn poisoned(len: usize) -> Result<Self> {
        let bytes = (len * size_of::<T>()).max(16);
        // SAFETY: the memory is ours, and as long as said.
        let at = unsafe {
            let at = result::malloc_sync(bytes)?;
            result::memset_d8_sync(at, 0xff, bytes)?;
            // What fills device memory may still be under way, and no other stream waits for it.
            result::ctx::synchronize()?;
            at
        };
        Ok(Self {
            at,
            len,
            element: PhantomData,
        })
    }

    pub(crate) fn of(values: &[T]) -> Result<Self> {
        let buffer = Self::poisoned(values.len())?;
        // SAFETY: as long as the values.
        unsafe { result::memcpy_htod_sync(buffer.at, values)? };
        Ok(buffer)
    }

    pub(crate) fn copy(&self) -> Result<Self> {
        let buffer = Self::poisoned(self.len)?;
        // SAFETY: both are as long.
        unsafe { result::memcpy_dtod_sync(buffer.at, self.at, self.len * size_of::<T>())? };
        result::ctx::synchronize()?;
        Ok(buffer)
    }

    pub(crate) fn read(&self) -> Result<Vec<T>> {
        let mut values = vec![T::default(); self.len];
        // SAFETY: as long as the buffer.
        unsafe { result::memcpy_dtoh_sync(&mut values, self.at)? };
        Ok(values)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: the memory is ours, and the device has been waited for wherever it was used.
        let _ = unsafe { result::free_sync(self.at) };
    }
}
