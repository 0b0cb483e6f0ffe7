//! Loading a fatbin and launching its kernels.

use std::{
    ffi::{CStr, CString, c_void},
    ptr,
};

use cudarc::driver::sys::{
    self, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CUfunction, CUmodule, CUstream,
};

use crate::{
    Error, Result,
    error::{self, check},
};

/// Bytes of the driver's words about PTX that are kept.
const JIT_LOG: usize = 8192;

/// The element type of dense matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
}

impl Element {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The end of a kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

/// A loaded fatbin, in the context that was current when it was loaded. Unloaded when dropped.
#[derive(Debug)]
pub struct Module {
    handle: CUmodule,
    overlaps: bool,
}

// SAFETY: a module's handle may be used from any thread that has made its context current.
unsafe impl Send for Module {}
// SAFETY: the driver's calls on modules are thread-safe.
unsafe impl Sync for Module {}

/// A kernel of a [`Module`], which must outlive it.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    handle: CUfunction,
    /// Whether its code is that for a GPU on which kernels can overlap.
    overlaps: bool,
}

// SAFETY: a function's handle may be used from any thread that has made its context current.
unsafe impl Send for Function {}
// SAFETY: the driver's calls on functions are thread-safe.
unsafe impl Sync for Function {}

/// Bytes aligned as a fatbin must be.
#[repr(C, align(64))]
pub(crate) struct Aligned<T: ?Sized>(pub(crate) T);

/// The fatbin of `cuda/NAME.cu`.
macro_rules! fatbin {
    ($name:literal) => {{
        static IMAGE: &$crate::driver::Aligned<[u8]> =
            &$crate::driver::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")));
        &IMAGE.0
    }};
}
pub(crate) use fatbin;

impl Module {
    /// Loads a fatbin (or cubin, or PTX text that ends with a zero byte) into the current context.
    ///
    /// # Errors
    /// [`Error::NoDriver`]; [`Error::Driver`] when the image has no code for this GPU or no context is current.
    pub fn load(image: &[u8]) -> Result<Self> {
        // SAFETY: opening the driver's library runs only its own initialisers.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        let mut handle = ptr::null_mut();
        // SAFETY: the image is complete, and the driver copies what it needs of it.
        let result = unsafe { sys::cuModuleLoadData(&raw mut handle, image.as_ptr().cast()) };
        check(result, || "cuModuleLoadData".to_owned())?;
        Self::loaded(handle)
    }

    /// Loads the text of PTX into the current context, which the driver compiles for its GPU.
    ///
    /// # Errors
    /// [`Error::NoDriver`]; [`Error::Source`] with the driver's words.
    pub fn load_ptx(text: &CStr) -> Result<Self> {
        // SAFETY: as in `load`.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        let mut log = vec![0_u8; JIT_LOG];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // Values are given in place of pointers.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), JIT_LOG as *mut c_void];
        let mut handle = ptr::null_mut();
        // SAFETY: the text ends with a zero byte; the log has the size told, and both lists two entries.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &raw mut handle,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        check(result, || "cuModuleLoadDataEx".to_owned()).map_err(|error| {
            let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
            Error::Source(format!(
                "the driver does not compile it: {error}\n{}",
                String::from_utf8_lossy(said).trim_end()
            ))
        })?;
        Self::loaded(handle)
    }

    fn loaded(handle: CUmodule) -> Result<Self> {
        // What is compiled from PTX for compute capability 8 does not wait for the kernel before it.
        let capability = device_attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        Ok(Self {
            handle,
            overlaps: matches!(capability, 9 | 10 | 12),
        })
    }

    /// The kernel of this name.
    ///
    /// # Errors
    /// [`Error::Driver`] when there is none.
    pub fn function(&self, name: &str) -> Result<Function> {
        let call = || format!("cuModuleGetFunction({name})");
        let text = CString::new(name).map_err(|_| Error::Unsupported(call()))?;
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, and the name ends with a zero byte.
        let result = unsafe { sys::cuModuleGetFunction(&raw mut function, self.handle, text.as_ptr()) };
        check(result, call)?;
        Ok(Function {
            handle: function,
            overlaps: self.overlaps,
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the handle is ours. With its context gone the driver answers with an error, which changes nothing.
        let _ = unsafe { sys::cuModuleUnload(self.handle) };
    }
}

impl Function {
    /// Lets a block of this kernel have `bytes` of dynamic shared memory, beyond the 48 KiB that all may have.
    ///
    /// # Errors
    /// [`Error::Driver`] when the GPU has less.
    pub fn allow_shared_memory(self, bytes: u32) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        let result = unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes as i32) };
        check(result, || format!("cuFuncSetAttribute(shared memory, {bytes})"))
    }

    /// Gives the kernel as much of a multiprocessor's memory as can be shared memory, not cache.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub(crate) fn prefer_shared_memory(self) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function is loaded.
        let result = unsafe { sys::cuFuncSetAttribute(self.handle, attribute, 100) };
        check(result, || "cuFuncSetAttribute(carveout)".to_owned())
    }

    /// Puts the kernel on `stream`: `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's parameter types, in order; the device memory they name is valid for
    /// what the kernel does, and stays so until the stream has passed it.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub unsafe fn launch(
        self,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        stream: CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.launch_with(&mut [], grid, block, shared, stream, arguments) }
    }

    /// As [`launch`](Self::launch), but where the GPU can, the kernel may start while the one before it on the stream
    /// still runs, once all of that one's blocks have ended or have passed `end_of_overlap` of `cuda/overlap.cuh`.
    ///
    /// # Safety
    /// As for [`launch`](Self::launch); before its own `end_of_overlap`, which it has, the kernel writes nothing and
    /// reads only what the kernel before it does not write.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub(crate) unsafe fn launch_overlapping(
        self,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        stream: CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.launch_overlapping_in_clusters(1, grid, block, shared, stream, arguments) }
    }

    /// As [`launch_overlapping`](Self::launch_overlapping), where every `cluster` blocks in x are on neighbouring
    /// multiprocessors and see each other's shared memory. Only GPUs on which kernels overlap have clusters.
    ///
    /// # Safety
    /// As for [`launch_overlapping`](Self::launch_overlapping).
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub(crate) unsafe fn launch_overlapping_in_clusters(
        self,
        cluster: u32,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        stream: CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        if !self.overlaps {
            // SAFETY: as the caller promises.
            return unsafe { self.launch(grid, block, shared, stream, arguments) };
        }
        let attribute = |id, value| sys::CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        };
        let early = attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        );
        let near = attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                    x: cluster,
                    y: 1,
                    z: 1,
                },
            },
        );
        let mut attributes = [early, near];
        let used = if cluster > 1 { 2 } else { 1 };
        // SAFETY: as the caller promises.
        unsafe { self.launch_with(&mut attributes[..used], grid, block, shared, stream, arguments) }
    }

    unsafe fn launch_with(
        self,
        attributes: &mut [sys::CUlaunchAttribute],
        grid: [u32; 3],
        block: u32,
        shared: u32,
        stream: CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: as the caller promises; the attributes outlive the call.
        let result = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.handle,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(result, || format!("cuLaunchKernelEx({})", self.name()))
    }

    fn name(self) -> String {
        let mut name = ptr::null();
        // SAFETY: the function is loaded, and `name` is a place for one pointer.
        let known = unsafe { sys::cuFuncGetName(&raw mut name, self.handle) };
        if known == sys::CUresult::CUDA_SUCCESS {
            error::static_text(name)
        } else {
            "unknown kernel".to_owned()
        }
    }
}

/// A kernel's arguments from references to values of its parameters' types.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {
        &mut [$(core::ptr::from_ref($value).cast_mut().cast::<core::ffi::c_void>()),*]
    };
}
pub(crate) use arguments;

/// An attribute of the GPU of the current context.
pub(crate) fn device_attribute(attribute: sys::CUdevice_attribute) -> Result<u32> {
    let mut device = 0;
    // SAFETY: `device` is a place for the answer.
    check(unsafe { sys::cuCtxGetDevice(&raw mut device) }, || {
        "cuCtxGetDevice".to_owned()
    })?;
    let mut value = 0;
    // SAFETY: `value` is a place for the answer.
    let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) };
    check(result, || "cuDeviceGetAttribute".to_owned())?;
    Ok(value as u32)
}

/// Multiprocessors of the GPU of the current context.
pub(crate) fn multiprocessors() -> Result<u32> {
    device_attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_loading_says_so() {
        // SAFETY: as in `Module::load`.
        if !unsafe { sys::is_culib_present() } {
            assert!(matches!(Module::load(&[0; 64]), Err(Error::NoDriver)));
        }
    }
}
