//! Weight matrices in the memory of a GPU, as they are stored or as floats.

use qbench_architectures::dequantize_in_parts;
use qbench_kernels::{CUdeviceptr, Codebook, Int8, scheme_kernel::SchemeKernel};
use qbench_sdk::{
    CudaKernel, DType, Error, Layout, Result, StoredTensor,
    backend::Execution,
    layout::{BlockCodebook, Scale},
};

use crate::{
    buffer::Buffer,
    error,
    execution::execution_with_kernel,
    fp8::Fp8Weight,
    gpu::{Gpu, element},
};

/// How a weight is held.
pub(crate) enum Weight {
    /// `[rows, cols]` of the precision.
    Dense(Buffer),
    Codebook {
        codebook: Codebook,
        buffers: Vec<Buffer>,
        /// The values of its tables, of codes and of coded scales: weights with equal ones can share a launch.
        tables: Vec<u8>,
    },
    Int8 {
        int8: Int8,
        buffers: Vec<Buffer>,
        /// From which magnitude on an activation is an outlier: weights with the same can share quantised activations.
        threshold: Vec<u8>,
    },
    Fp8(Fp8Weight),
    /// Turned into floats by the scheme's own kernel, for each product.
    Scheme {
        kernel: SchemeKernel,
        /// Of the buffers, 0 for an empty one.
        addresses: Vec<CUdeviceptr>,
        buffers: Vec<Buffer>,
    },
}

impl Weight {
    /// The weight, and how its products are done.
    pub(crate) fn load(
        gpu: &Gpu,
        tensor: &dyn StoredTensor,
        precision: DType,
        threads: usize,
    ) -> Result<(Self, Execution)> {
        let layout = tensor.layout();
        // Kernels index the buffers by the layout.
        layout.validate()?;
        layout.check_buffers(tensor.buffers().into_iter().map(<[u8]>::len))?;
        let kernel = tensor.cuda_kernel()?;
        let (execution, _) = execution_with_kernel(layout, precision, gpu.capability(), kernel.as_ref());
        let weight = match (layout, &execution) {
            (_, Execution::Unsupported { reason }) => return Err(Error::Unsupported(reason.clone())),
            (_, Execution::SchemeKernel { .. }) => {
                let kernel =
                    kernel.ok_or_else(|| Error::Internal("a scheme's kernel that is gone".to_owned()))?;
                scheme_weight(gpu, tensor, &kernel, precision)?
            }
            (Layout::ScaledFp8(layout), _) => Self::Fp8(Fp8Weight::load(gpu, tensor, layout)?),
            (Layout::Dense(dense), _) if dense.dtype == precision => {
                Self::Dense(gpu.upload(tensor.buffer(0))?)
            }
            (Layout::BlockCodebook(layout), _) if layout.bits == 4 => {
                let buffers = upload(gpu, tensor)?;
                Self::Codebook {
                    codebook: Codebook::at(layout, &addresses(&buffers)),
                    buffers,
                    tables: tables(layout, tensor),
                }
            }
            (Layout::Int8Vectorwise(layout), _) => {
                let buffers = upload(gpu, tensor)?;
                let [codes, scales, threshold] = [0, 1, 2].map(|index: usize| buffers[index].address());
                Self::Int8 {
                    int8: Int8::at(layout, [codes, scales, threshold]),
                    buffers,
                    threshold: tensor.buffer(2).to_vec(),
                }
            }
            _ => Self::Dense(dequantized(gpu, tensor, precision, threads)?),
        };
        Ok((weight, execution))
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(buffer) => buffer.bytes(),
            Self::Codebook { buffers, .. } | Self::Int8 { buffers, .. } | Self::Scheme { buffers, .. } => {
                buffers.iter().map(Buffer::bytes).sum()
            }
            Self::Fp8(weight) => weight.bytes(),
        }
    }

    /// The weight as `[rows, cols]` of the precision.
    pub(crate) fn dense(
        &self,
        gpu: &Gpu,
        (rows, cols): (usize, usize),
        precision: DType,
    ) -> Result<Rows<'_>> {
        match self {
            Self::Dense(buffer) => Ok(Rows::Held(buffer)),
            Self::Codebook { codebook, .. } => {
                let out = gpu.buffer(rows * cols * precision.size())?;
                // SAFETY: the codebook's buffers were checked at load; `out` has room for every row.
                unsafe {
                    gpu.kernels.dequantize.run(
                        codebook,
                        0..rows,
                        out.address(),
                        element(precision)?,
                        gpu.stream(),
                    )
                }
                .map_err(error::kernel)?;
                Ok(Rows::Made(out))
            }
            Self::Scheme {
                kernel, addresses, ..
            } => {
                let out = gpu.buffer(rows * cols * precision.size())?;
                // SAFETY: the buffers were checked at load and are on 256 bytes, as `out` is, which has room for every row.
                unsafe { kernel.run(0..rows, addresses, out.address(), gpu.stream()) }
                    .map_err(error::kernel)?;
                Ok(Rows::Made(out))
            }
            Self::Int8 { .. } | Self::Fp8(_) => Err(Error::Unsupported(
                "a table of embeddings in int8 or e4m3 on the GPU".to_owned(),
            )),
        }
    }
}

/// A dense weight, held or made for one use.
pub(crate) enum Rows<'a> {
    Held(&'a Buffer),
    Made(Buffer),
}

impl Rows<'_> {
    pub(crate) fn address(&self) -> CUdeviceptr {
        match self {
            Self::Held(buffer) => buffer.address(),
            Self::Made(buffer) => buffer.address(),
        }
    }
}

/// A weight that the scheme's kernel turns into floats.
fn scheme_weight(
    gpu: &Gpu,
    tensor: &dyn StoredTensor,
    kernel: &CudaKernel,
    precision: DType,
) -> Result<Weight> {
    let kernel = gpu
        .scheme_kernels
        .load(kernel, precision, tensor.layout())
        .map_err(error::kernel)?;
    let buffers = upload(gpu, tensor)?;
    let addresses = buffers
        .iter()
        .zip(tensor.buffers())
        .map(|(buffer, bytes)| if bytes.is_empty() { 0 } else { buffer.address() })
        .collect();
    Ok(Weight::Scheme {
        kernel,
        addresses,
        buffers,
    })
}

/// All buffers of a tensor.
fn upload(gpu: &Gpu, tensor: &dyn StoredTensor) -> Result<Vec<Buffer>> {
    tensor
        .buffers()
        .into_iter()
        .map(|bytes| gpu.upload(bytes))
        .collect()
}

/// The addresses of up to six buffers.
fn addresses(buffers: &[Buffer]) -> [CUdeviceptr; 6] {
    let mut addresses = [0; 6];
    for (address, buffer) in addresses.iter_mut().zip(buffers) {
        *address = buffer.address();
    }
    addresses
}

/// The values of a codebook's tables: see [`Weight::Codebook`].
fn tables(layout: &BlockCodebook, tensor: &dyn StoredTensor) -> Vec<u8> {
    match layout.scale {
        Scale::F32 => tensor.buffer(1).to_vec(),
        Scale::Coded { .. } => [tensor.buffer(1), tensor.buffer(4)].concat(),
    }
}

/// The weight as dense values of the precision, a part at a time through memory of the host.
fn dequantized(gpu: &Gpu, tensor: &dyn StoredTensor, precision: DType, threads: usize) -> Result<Buffer> {
    let row = tensor.layout().cols() * precision.size();
    let all = gpu.buffer(tensor.layout().rows() * row)?;
    dequantize_in_parts(tensor, precision, threads, |first, _, part| {
        gpu.write(&all, first * row, part)
    })?;
    Ok(all)
}
