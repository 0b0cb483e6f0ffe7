//! Weights and activations in e4m3.

use crate::CUdeviceptr;

/// Rows and columns of e4m3 matrices are filled up to a multiple of this: tensor cores take 16 bytes at a time.
pub(crate) const PACK: usize = 16;

/// A weight of e4m3 codes with a scale a row, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Fp8 {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// [`padded_rows`](Self::padded_rows) rows of [`pitch`](Self::pitch) codes, aligned to 16 bytes; those that fill up
    /// are 0.
    pub codes: CUdeviceptr,
    /// f32, `[padded_rows]`, aligned to 16 bytes.
    pub scales: CUdeviceptr,
}

impl Fp8 {
    /// Codes a row, `cols` rounded up.
    pub fn pitch(&self) -> usize {
        self.cols.next_multiple_of(PACK)
    }

    /// `rows` rounded up.
    pub fn padded_rows(&self) -> usize {
        self.rows.next_multiple_of(PACK)
    }
}

/// Activations in e4m3: addresses within memory that the caller lends.
#[derive(Clone, Copy, Debug)]
pub struct Activations {
    /// `[tokens, pitch]` codes.
    pub codes: CUdeviceptr,
    /// f32, `[tokens]`.
    pub scales: CUdeviceptr,
    /// Codes a token: `cols`, rounded up to a multiple of 16.
    pub pitch: usize,
    /// Bytes of it all.
    pub bytes: usize,
}

impl Activations {
    /// Divides memory at `memory`, aligned to 256 bytes, for `[tokens, cols]`. With a `memory` of 0 it tells how much that
    /// is.
    pub fn new(memory: CUdeviceptr, tokens: usize, cols: usize) -> Self {
        let pitch = cols.next_multiple_of(PACK);
        let codes = (tokens * pitch).next_multiple_of(256);
        Self {
            codes: memory,
            scales: memory + codes as u64,
            pitch,
            bytes: codes + tokens * size_of::<f32>(),
        }
    }
}
