//! The structs of `include/qbench_plugin.h`, field for field. A test compiles the header and compares.

use std::{
    ffi::{c_char, c_void},
    mem::MaybeUninit,
};

/// `QBENCH_PLUGIN_ABI`.
pub const ABI: u32 = 1;

pub(super) type Status = i32;

pub(super) type WriteText = unsafe extern "C" fn(context: *mut c_void, text: *const c_char, bytes: usize);

/// `qbench_text`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    pub(super) context: *mut c_void,
    pub(super) write: Option<WriteText>,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UserOption {
    pub(super) key: *const c_char,
    pub(super) value: *const c_char,
}

/// `qbench_matrix` and `qbench_matrix_mut`, which differ in what `data` points to.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MatrixAt<Pointer> {
    pub(super) data: Pointer,
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) row_stride: u64,
    pub(super) dtype: u32,
}

pub(super) type Matrix = MatrixAt<*const u8>;
pub(super) type MatrixMut = MatrixAt<*mut u8>;

/// `qbench_buffer` and `qbench_const_buffer`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BufferAt<Pointer> {
    pub(super) data: Pointer,
    pub(super) bytes: u64,
}

pub(super) type Buffer = BufferAt<*mut u8>;
pub(super) type ConstBuffer = BufferAt<*const u8>;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Storage {
    pub(super) struct_size: usize,
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) layout_json: *const c_char,
    pub(super) buffer_count: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) struct_size: usize,
    pub(super) threads: u32,
}

pub(super) type Open =
    unsafe extern "C" fn(*const UserOption, usize, *mut *mut c_void, *const Text) -> Status;
pub(super) type Close = unsafe extern "C" fn(*mut c_void);
pub(super) type Layout =
    unsafe extern "C" fn(*const c_void, u64, u64, u32, *const Text, *mut u64, *const Text) -> Status;
pub(super) type Quantize = unsafe extern "C" fn(
    *const c_void,
    *const Storage,
    *const Matrix,
    *const Buffer,
    *const Call,
    *const Text,
) -> Status;
pub(super) type Dequantize = unsafe extern "C" fn(
    *const c_void,
    *const Storage,
    *const ConstBuffer,
    u64,
    *const MatrixMut,
    *const Call,
    *const Text,
) -> Status;
pub(super) type Matmul = unsafe extern "C" fn(
    *const c_void,
    *const Storage,
    *const ConstBuffer,
    *const Matrix,
    *const MatrixMut,
    *const Call,
    *const Text,
) -> Status;
pub(super) type CudaKernel =
    unsafe extern "C" fn(*const c_void, *const Storage, *const Text, *const Text) -> Status;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Scheme {
    pub(super) struct_size: usize,
    pub(super) info_json: *const c_char,
    pub(super) open: Option<Open>,
    pub(super) close: Option<Close>,
    pub(super) layout: Option<Layout>,
    pub(super) quantize: Option<Quantize>,
    pub(super) dequantize: Option<Dequantize>,
    pub(super) matmul: Option<Matmul>,
    pub(super) cuda_kernel: Option<CudaKernel>,
}

/// `qbench_plugin`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PluginTable {
    pub(super) struct_size: usize,
    pub(super) abi: u32,
    pub(super) name: *const c_char,
    pub(super) version: *const c_char,
    pub(super) license: *const c_char,
    pub(super) scheme_count: usize,
    pub(super) schemes: *const *const Scheme,
}

/// `qbench_host`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub(super) struct_size: usize,
    pub(super) log: Option<Log>,
}

pub(super) type Log = unsafe extern "C" fn(u32, *const c_char, *const c_char);

/// The function that a plugin exports, `qbench_plugin_v1`.
pub type Entry = unsafe extern "C" fn(host: *const Host, error: *const Text) -> *const PluginTable;

/// A struct that starts with its own size and that grows at its end.
///
/// # Safety
/// The first field is `struct_size: usize`, and the struct may be all zeros.
pub(super) unsafe trait Growing: Copy {
    /// What it is called in errors.
    const NAME: &'static str;
    /// Bytes of the struct in the first release: what every peer has.
    const FIRST_SIZE: usize;
}

// SAFETY: `struct_size` comes first; null pointers, absent functions and 0 are values of the other fields.
unsafe impl Growing for Scheme {
    const NAME: &'static str = "qbench_scheme";
    const FIRST_SIZE: usize = 72;
}

// SAFETY: as above.
unsafe impl Growing for PluginTable {
    const NAME: &'static str = "qbench_plugin";
    const FIRST_SIZE: usize = 56;
}

/// Copies a struct of another release; fields that it does not have become zero.
///
/// # Errors
/// A null pointer, or a size that no release has.
///
/// # Safety
/// `pointer` is null or points to a struct of as many bytes as its first field says.
pub(super) unsafe fn copy_grown<T: Growing>(pointer: *const T) -> Result<T, String> {
    if pointer.is_null() {
        return Err(format!("a null pointer where {} was expected", T::NAME));
    }
    // SAFETY: the first field is there whatever the release.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if size < T::FIRST_SIZE {
        return Err(format!(
            "{}.struct_size is {size}; expected sizeof({}), at least {}",
            T::NAME,
            T::NAME,
            T::FIRST_SIZE
        ));
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    // SAFETY: both are at least as long as what is copied, and all zeros is a value of the rest.
    unsafe {
        copy.as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(pointer.cast(), size.min(size_of::<T>()));
        Ok(copy.assume_init())
    }
}
