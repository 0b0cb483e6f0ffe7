//! The modes `standard`, `8bit`, `4bit_nf4`, `4bit_fp4` and `4bit_nf4_double`.
//!
//! The quantised ones store exactly the bytes that bitsandbytes 0.50 stores on a CPU with one thread, whatever number of
//! threads works here. `docs/numerics.md` says where CUDA and other libraries differ.

mod four_bit;
mod int8;
mod nested;
mod standard;
mod storage;

pub use four_bit::FourBit;
pub use int8::Int8;
pub use standard::Standard;

qbench_sdk::export_plugin!(schemes: [
    Standard::open,
    Int8::open,
    FourBit::open_nf4,
    FourBit::open_fp4,
    FourBit::open_nf4_double,
]);
