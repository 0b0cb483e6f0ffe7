//! Block codebooks: checks, and times beside cuBLAS.

mod check;
mod stored;
mod time;

pub(crate) use check::check;
pub(crate) use time::time;

use qbench_kernels::{codebook_dequantize::Dequantize, codebook_few::Few, codebook_many::Many, read::Read};

use crate::device::Result;

pub(crate) struct Kernels {
    dequantize: Dequantize,
    few: Few,
    many: Option<Many>,
    read: Read,
}

impl Kernels {
    pub(crate) fn load() -> Result<Self> {
        Ok(Self {
            dequantize: Dequantize::load()?,
            few: Few::load()?,
            many: Many::load()?,
            read: Read::load()?,
        })
    }
}
