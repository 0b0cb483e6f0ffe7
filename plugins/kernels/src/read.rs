//! Reads memory and keeps nothing: the ceiling of every kernel that is bound by reading.

use crate::{
    CUdeviceptr, CUstream, Function, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
};

/// The kernel, loaded into one context.
#[derive(Debug)]
pub struct Read {
    function: Function,
    blocks: u32,
    _module: Module,
}

impl Read {
    /// Loads the kernel into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("read"))?;
        Ok(Self {
            function: module.function("read_all")?,
            blocks: multiprocessors()? * 4,
            _module: module,
        })
    }

    /// Reads `bytes`, a multiple of 16, at `data`.
    ///
    /// # Safety
    /// So much memory is there.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn run(&self, data: CUdeviceptr, bytes: usize, stream: CUstream) -> Result<()> {
        // SAFETY: types and order are those of the kernel; it writes nothing in practice, and to the start of the data
        // at worst.
        unsafe {
            self.function.launch(
                [self.blocks, 1, 1],
                512,
                0,
                stream,
                arguments![&data, &(bytes as u64 / 16), &data],
            )
        }
    }
}
