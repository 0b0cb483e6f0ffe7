//! Random values, tolerances, weights in memory, and the devices that tests run on.

use qbench_sdk::{
    AlignedBuffer, CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Result, StoredTensor,
    layout::{self, Dense},
    narrow, widen,
};
use tch::{Device, Kind, Tensor};

use crate::{
    context::Context,
    options::KernelChoice,
    tensors::{download, upload},
};

pub(crate) const PRECISIONS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// What a test runs on: every precision on the CPU; with `$QBENCH_TEST_CUDA` on the first GPU instead, with our kernels
/// and with torch's.
pub(crate) fn contexts() -> Vec<Context> {
    let places = if std::env::var_os("QBENCH_TEST_CUDA").is_some() {
        vec![
            (Device::Cuda(0), KernelChoice::Own),
            (Device::Cuda(0), KernelChoice::Torch),
        ]
    } else {
        vec![(Device::Cpu, KernelChoice::Torch)]
    };
    places
        .into_iter()
        .flat_map(|(device, kernels)| PRECISIONS.map(|precision| (device, kernels, precision)))
        .map(|(device, kernels, precision)| {
            let context = Context::new(device, precision, 2, kernels).unwrap();
            context.enter().unwrap();
            context
        })
        .collect()
}

impl Context {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        let kernels = if self.gpu.is_some() { ", our kernels" } else { "" };
        format!("{} on {:?}{kernels}", self.precision, self.device)
    }

    /// `[rows, width]` of the precision.
    pub(crate) fn activations(&self, values: &[f32], width: usize) -> Tensor {
        let mut bytes = vec![0; values.len() * self.precision.size()];
        narrow(values, self.precision, &mut bytes).unwrap();
        let shape = [(values.len() / width) as i64, width as i64];
        upload(&bytes, &shape, self.precision, self.device).unwrap()
    }

    /// f32 values of a bias.
    pub(crate) fn floats(&self, values: &[f32]) -> Tensor {
        Tensor::from_slice(values).to_device(self.device)
    }
}

pub(crate) fn read(tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![f32::NAN; tensor.numel()];
    download(&tensor.contiguous(), &mut out).unwrap();
    out
}

/// The elements' own bytes.
pub(crate) fn bytes(tensor: &Tensor) -> Vec<u8> {
    let size = if tensor.kind() == Kind::Float { 4 } else { 2 };
    let tensor = tensor.to_device(Device::Cpu).contiguous();
    let mut out = vec![0; tensor.numel() * size];
    let bits = if size == 4 { Kind::Int } else { Kind::Int16 };
    tensor
        .f_view_dtype(bits)
        .unwrap()
        .f_copy_data_u8(&mut out, tensor.numel())
        .unwrap();
    out
}

/// A reproducible generator (SplitMix64; Steele et al. 2014) of nearly normal values: sums of uniform ones.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Values of deviation 1 that the precision holds exactly.
    pub(crate) fn values(&mut self, count: usize, precision: DType) -> Vec<f32> {
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
pub(crate) fn rounding(precision: DType) -> f64 {
    match precision {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 1.0 / 16_777_216.0,
    }
}

/// Fails where a value is farther from the truth than `tolerance` times the largest truth.
pub(crate) fn assert_close(values: &[f32], truth: &[f64], tolerance: f64, what: &str) {
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

/// `x · Wᵀ + bias` in f64.
pub(crate) fn product(x: &[f32], weight: &[f32], cols: usize, bias: Option<&[f32]>) -> Vec<f64> {
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

/// A weight in memory.
pub(crate) struct MemoryTensor {
    pub(crate) layout: Layout,
    pub(crate) buffers: Vec<AlignedBuffer>,
    /// What a custom layout stands for.
    pub(crate) floats: Vec<f32>,
    /// What its scheme brings.
    pub(crate) kernel: Option<CudaKernel>,
}

impl MemoryTensor {
    pub(crate) fn new(layout: Layout, buffers: Vec<AlignedBuffer>) -> Self {
        Self {
            layout,
            buffers,
            floats: Vec::new(),
            kernel: None,
        }
    }

    pub(crate) fn dense(rows: usize, cols: usize, dtype: DType, values: &[f32]) -> Self {
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(values, dtype, &mut bytes).unwrap();
        let layout = Layout::Dense(Dense { rows, cols, dtype });
        Self::new(layout, vec![AlignedBuffer::from_bytes(&bytes)])
    }

    /// A layout's buffers, each filled with random bytes or floats of its type.
    pub(crate) fn random(layout: Layout, random: &mut Random) -> Self {
        let buffers = layout
            .buffers()
            .iter()
            .map(|spec| match spec.dtype {
                DType::F32 => AlignedBuffer::from_bytes(bytemuck::cast_slice(
                    &random.values(spec.bytes / 4, DType::F32),
                )),
                // -128 is no code.
                DType::I8 => AlignedBuffer::from_bytes(
                    &(0..spec.bytes)
                        .map(|_| ((random.next() % 255) as i8).wrapping_sub(127) as u8)
                        .collect::<Vec<_>>(),
                ),
                _ => AlignedBuffer::from_bytes(
                    &(0..spec.bytes).map(|_| random.next() as u8).collect::<Vec<_>>(),
                ),
            })
            .collect();
        Self::new(layout, buffers)
    }

    /// The reference decoder's elements.
    pub(crate) fn decoded(&self, precision: DType) -> Vec<u8> {
        let (rows, cols) = (self.layout.rows(), self.layout.cols());
        let mut bytes = vec![0; rows * cols * precision.size()];
        let mut out = MatrixMut::new(&mut bytes, rows, cols, precision).unwrap();
        self.dequantize(0, &mut out, CallContext::single_threaded())
            .unwrap();
        bytes
    }

    /// The same as f32 values.
    pub(crate) fn values(&self, precision: DType) -> Vec<f32> {
        let mut values = vec![0.0; self.layout.rows() * self.layout.cols()];
        widen(&self.decoded(precision), precision, &mut values).unwrap();
        values
    }

    pub(crate) fn boxed(&self) -> Box<dyn StoredTensor> {
        Box::new(Self {
            layout: self.layout.clone(),
            buffers: self
                .buffers
                .iter()
                .map(|buffer| AlignedBuffer::from_bytes(buffer))
                .collect(),
            floats: self.floats.clone(),
            kernel: self.kernel.clone(),
        })
    }
}

impl StoredTensor for MemoryTensor {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        if self.floats.is_empty() {
            return layout::decode(&self.layout, &self.buffers(), first_row, out);
        }
        let cols = self.layout.cols();
        (0..out.rows())
            .try_for_each(|row| out.write_row(row, &self.floats[(first_row + row) * cols..][..cols]))
    }

    fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(Error::Unsupported("no product".to_owned()))
    }

    fn cuda_kernel(&self) -> Result<Option<CudaKernel>> {
        Ok(self.kernel.clone())
    }
}
