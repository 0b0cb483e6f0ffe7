//! Every operation against its definition in f64, on a GPU. `with-cuda cargo test -- --ignored` runs them.
//!
//! Under test all memory of the GPU starts as NaN: what an operation does not write shows.

use candle_core::cuda_backend::cudarc::driver::result::memcpy_dtod_async;
use qbench_architectures::{Ops, Pass};
use qbench_sdk::{
    AlignedBuffer, CallContext, DType, Layout, Matrix, MatrixMut, Result, StoredTensor,
    backend::{Cache, TokenBatch},
    layout::{self, Dense},
    narrow, widen,
};

use super::{Activations, CudaOps, Tokens};
use crate::{buffer::Buffer, driver, gpu::Gpu};

mod attention;
mod codebook;
mod dense;
mod fp8;
mod int8;
mod memory;
mod norms;
mod rotations;
mod scheme_kernel;
mod steps;

const PRECISIONS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A reproducible generator (SplitMix64; Steele et al. 2014) of nearly normal values: sums of uniform ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Values of deviation 1 that the precision holds exactly.
    fn values(&mut self, count: usize, precision: DType) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count)
            .map(|_| {
                let sum: f64 = (0..3)
                    .map(|_| (self.next() >> 11) as f64 / (1_u64 << 53) as f64)
                    .sum();
                (2.0 * sum - 3.0) as f32
            })
            .collect();
        let mut bytes = vec![0; count * precision.size()];
        narrow(&values, precision, &mut bytes).unwrap();
        widen(&bytes, precision, &mut values).unwrap();
        values
    }
}

/// Half a unit in the last place of a value of size 1.
fn rounding(precision: DType) -> f64 {
    match precision {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 1.0 / 16_777_216.0,
    }
}

/// Fails where a value is farther from the truth than `tolerance` times the largest truth.
fn assert_close(values: &[f32], truth: &[f64], tolerance: f64, what: &str) {
    assert_eq!(values.len(), truth.len(), "{what}");
    let largest = truth.iter().fold(1e-30_f64, |max, value| max.max(value.abs()));
    let worst = values
        .iter()
        .zip(truth)
        .map(|(value, truth)| (f64::from(*value) - truth).abs())
        // A NaN is the worst of all.
        .fold(0.0_f64, |max, error| if error <= max { max } else { error });
    assert!(
        worst <= tolerance * largest,
        "{what}: off by {worst:e}, allowed {:e}",
        tolerance * largest
    );
}

fn ops(precision: DType) -> CudaOps {
    let gpu = Gpu::open(driver::find("cuda:0").unwrap()).unwrap();
    CudaOps::new(gpu, precision, 1).unwrap()
}

fn activations(ops: &CudaOps, values: &[f32], width: usize) -> Activations {
    let mut bytes = vec![0; values.len() * ops.precision.size()];
    narrow(values, ops.precision, &mut bytes).unwrap();
    let out = ops.empty(values.len() / width, width).unwrap();
    // SAFETY: the activations have room for their values.
    unsafe { ops.gpu.write_at(out.address(), &bytes) }.unwrap();
    out
}

fn floats(ops: &CudaOps, values: &[f32]) -> Buffer {
    ops.gpu.upload(bytemuck::cast_slice(values)).unwrap()
}

fn read(ops: &CudaOps, x: &Activations) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.rows * x.width];
    ops.copy_out(x, &mut out).unwrap();
    out
}

/// A pass of sequences with this mask; angles of 0.1 times position plus pair.
fn tokens(ops: &CudaOps, ids: &[u32], mask: &[u8], batch: usize, past: usize, half: usize) -> Tokens {
    pass(ops, (ids, mask), batch, past, half, Cache::None)
}

/// The same, with a cache or without.
fn pass(
    ops: &CudaOps,
    (ids, mask): (&[u32], &[u8]),
    batch: usize,
    past: usize,
    half: usize,
    cache: Cache,
) -> Tokens {
    let length = ids.len() / batch;
    let angles: Vec<f32> = (0..length * half)
        .map(|i| 0.1 * ((past + i / half) as f32 + (i % half) as f32))
        .collect();
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    ops.begin(&Pass {
        tokens: TokenBatch {
            ids,
            mask,
            batch,
            length,
            cache,
        },
        past,
        cos: &cos,
        sin: &sin,
    })
    .unwrap()
}

/// A weight in memory.
struct MemoryTensor {
    layout: Layout,
    buffers: Vec<AlignedBuffer>,
}

impl StoredTensor for MemoryTensor {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        layout::decode(&self.layout, &self.buffers(), first_row, out)
    }

    fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(qbench_sdk::Error::Unsupported("no product".to_owned()))
    }
}

fn dense(rows: usize, cols: usize, dtype: DType, values: &[f32]) -> MemoryTensor {
    let mut bytes = vec![0; values.len() * dtype.size()];
    narrow(values, dtype, &mut bytes).unwrap();
    MemoryTensor {
        layout: Layout::Dense(Dense { rows, cols, dtype }),
        buffers: vec![AlignedBuffer::from_bytes(&bytes)],
    }
}

fn product(x: &[f32], weight: &[f32], cols: usize, bias: Option<&[f32]>) -> Vec<f64> {
    x.chunks_exact(cols)
        .flat_map(|x| {
            weight.chunks_exact(cols).enumerate().map(move |(row, weight)| {
                let dot: f64 = x
                    .iter()
                    .zip(weight)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                dot + bias.map_or(0.0, |bias| f64::from(bias[row]))
            })
        })
        .collect()
}

/// The first columns of `from` into all of `to`, in the order of the stream.
fn copy_columns(ops: &CudaOps, from: &Activations, to: &Activations) {
    let size = ops.precision.size();
    for row in 0..to.rows {
        let (source, target) = (
            from.address() + (row * from.width * size) as u64,
            to.address() + (row * to.width * size) as u64,
        );
        // SAFETY: both have so many rows, and `from` is no narrower.
        unsafe { memcpy_dtod_async(target, source, to.width * size, ops.gpu.stream()) }.unwrap();
    }
}
