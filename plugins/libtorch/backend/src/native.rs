//! The functions of `cpp/torch_parts.cpp`, made safe.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::Once,
};

use qbench_sdk::{Result, backend::Memory};

use crate::error::exception;

/// `c10::Event`.
#[repr(C)]
struct RawEvent {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn qbench_torch_reason() -> *const c_char;
    fn qbench_torch_headers() -> *const c_char;
    fn qbench_torch_count_cpu();
    fn qbench_torch_cpu_memory(allocated: *mut i64, most: *mut i64);
    fn qbench_torch_cpu_reset_peak();
    fn qbench_torch_cuda_memory(
        device: c_int,
        allocated: *mut i64,
        most: *mut i64,
        reserved: *mut i64,
    ) -> c_int;
    fn qbench_torch_cuda_reset_peak(device: c_int) -> c_int;
    fn qbench_torch_cuda_set_device(device: c_int) -> c_int;
    fn qbench_torch_cuda_stream(device: c_int, stream: *mut *mut c_void) -> c_int;
    fn qbench_torch_cuda_cudnn_attention(allowed: c_int);
    fn qbench_torch_cuda_event(event: *mut *mut RawEvent) -> c_int;
    fn qbench_torch_cuda_event_free(event: *mut RawEvent);
    fn qbench_torch_cuda_event_record(event: *mut RawEvent, device: c_int) -> c_int;
    fn qbench_torch_cuda_event_elapsed(
        first: *const RawEvent,
        second: *const RawEvent,
        milliseconds: *mut f64,
    ) -> c_int;
    fn qbench_torch_cuda_synchronize(device: c_int) -> c_int;
}

fn check(result: c_int, name: &str) -> Result<()> {
    if result == 0 {
        return Ok(());
    }
    // SAFETY: the text belongs to this thread and stays until its next failure; it ends with a zero byte.
    let text = unsafe { CStr::from_ptr(qbench_torch_reason()) }.to_string_lossy();
    Err(exception(name, &text))
}

/// The version of torch whose headers this library was compiled with.
pub(crate) fn version() -> &'static str {
    // SAFETY: a constant of the library, in ASCII, that ends with a zero byte.
    unsafe { CStr::from_ptr(qbench_torch_headers()) }
        .to_str()
        .unwrap_or("unknown")
}

/// Has torch's tensors on the CPU counted from here on.
pub(crate) fn count_cpu_memory() {
    static ONCE: Once = Once::new();
    // SAFETY: called once; the allocator that it installs lives as long as the process.
    ONCE.call_once(|| unsafe { qbench_torch_count_cpu() });
}

/// Memory of torch's tensors on the CPU.
pub(crate) fn cpu_memory() -> Memory {
    let (mut allocated, mut most) = (0, 0);
    // SAFETY: places for two numbers.
    unsafe { qbench_torch_cpu_memory(&raw mut allocated, &raw mut most) };
    Memory {
        allocated: allocated as u64,
        peak_allocated: most as u64,
        reserved: None,
        measured_by: "torch's CPU allocator".to_owned(),
    }
}

/// Starts a new peak on the CPU.
pub(crate) fn reset_cpu_peak() {
    // SAFETY: has no precondition.
    unsafe { qbench_torch_cpu_reset_peak() }
}

/// Memory of torch's tensors on a GPU.
pub(crate) fn cuda_memory(device: usize) -> Result<Memory> {
    let (mut allocated, mut most, mut reserved) = (0, 0, 0);
    // SAFETY: places for three numbers.
    let result = unsafe {
        qbench_torch_cuda_memory(
            device as c_int,
            &raw mut allocated,
            &raw mut most,
            &raw mut reserved,
        )
    };
    check(result, "memory statistics")?;
    Ok(Memory {
        allocated: allocated as u64,
        peak_allocated: most as u64,
        reserved: Some(reserved as u64),
        measured_by: "torch's CUDA allocator".to_owned(),
    })
}

/// Starts a new peak on a GPU.
pub(crate) fn reset_cuda_peak(device: usize) -> Result<()> {
    // SAFETY: has no precondition; a device that is not there is an error.
    check(
        unsafe { qbench_torch_cuda_reset_peak(device as c_int) },
        "memory statistics",
    )
}

/// Makes a GPU the one that this thread's CUDA calls go to.
pub(crate) fn set_cuda_device(device: usize) -> Result<()> {
    // SAFETY: as above.
    check(
        unsafe { qbench_torch_cuda_set_device(device as c_int) },
        "set_device",
    )
}

/// The stream that torch's operations of this thread run on.
pub(crate) fn cuda_stream(device: usize) -> Result<*mut c_void> {
    let mut stream = ptr::null_mut();
    // SAFETY: a place for one pointer.
    let result = unsafe { qbench_torch_cuda_stream(device as c_int, &raw mut stream) };
    check(result, "current stream")?;
    Ok(stream)
}

/// Returns once a GPU has done everything that it was given.
pub(crate) fn synchronize(device: usize) -> Result<()> {
    // SAFETY: has no precondition.
    check(
        unsafe { qbench_torch_cuda_synchronize(device as c_int) },
        "synchronize",
    )
}

/// Whether torch may choose cuDNN's attention, from here on.
pub(crate) fn allow_cudnn_attention(allowed: bool) {
    // SAFETY: sets a flag of the process, which torch's attention reads; only this library runs it.
    unsafe { qbench_torch_cuda_cudnn_attention(c_int::from(allowed)) }
}

/// A moment in the order of a GPU's stream.
pub(crate) struct Event {
    raw: *mut RawEvent,
    device: usize,
}

// SAFETY: an event belongs to its device, not to a thread.
unsafe impl Send for Event {}

impl Event {
    pub(crate) fn new(device: usize) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: a place for one pointer.
        check(unsafe { qbench_torch_cuda_event(&raw mut raw) }, "event")?;
        Ok(Self { raw, device })
    }

    pub(crate) fn record(&self) -> Result<()> {
        // SAFETY: the event lives.
        check(
            unsafe { qbench_torch_cuda_event_record(self.raw, self.device as c_int) },
            "event record",
        )
    }

    /// Seconds from this event to a later one, both recorded.
    pub(crate) fn seconds_to(&self, later: &Self) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: both events live; a place for one number.
        let result = unsafe { qbench_torch_cuda_event_elapsed(self.raw, later.raw, &raw mut milliseconds) };
        check(result, "event elapsed time")?;
        Ok(milliseconds / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours and is not used again.
        unsafe { qbench_torch_cuda_event_free(self.raw) }
    }
}
