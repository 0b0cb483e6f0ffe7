//! Weight matrices on the GPU, and their products with activations.

use qbench_architectures::Loaded;
use qbench_kernels::{
    CUdeviceptr, Codebook, Element, Int8, Scales,
    codebook_few::MOST_TOKENS,
    codebook_many,
    dense_few::{self, Shape},
    int8_many,
    int8_quantize::Activations,
    scheme_kernel::{self, SchemeKernel},
};
use qbench_sdk::{
    AlignedBuffer, CallContext, CudaKernel, DType, Error, Layout, MatrixMut, Result, StoredTensor,
    backend::{DequantizeWhen, Execution},
    layout::{BlockCodebook, Blocks, Int8Vectorwise, NibbleOrder, Scale, int8::MAX_COLS},
    narrow,
};

use crate::{
    buffer::Buffer,
    error,
    fp8::{self, Fp8Weight, Kept},
    gpu::{Gpu, element},
    product,
};

/// The major compute capability of Hopper, whose products the fused kernels use.
const HOPPER: i32 = 9;

/// Bytes that are converted on the host before they are copied to the GPU.
const STAGE: usize = 64 << 20;

/// A loaded weight matrix with its optional bias.
pub(crate) struct Linear {
    weight: Weight,
    rows: usize,
    cols: usize,
    /// f32 values.
    bias: Option<Buffer>,
    precision: DType,
}

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

/// How a layout is run on a GPU of this compute capability, if its scheme brings `kernel`; and why not by that kernel,
/// where it could be.
pub(crate) fn execution_with_kernel(
    layout: &Layout,
    precision: DType,
    capability: (i32, i32),
    kernel: Option<&CudaKernel>,
) -> (Execution, Option<String>) {
    let own = execution(layout, precision, capability);
    match (&own, kernel) {
        (
            Execution::Dequantize {
                when: DequantizeWhen::Load,
                ..
            },
            Some(kernel),
        ) => scheme_kernel::execution(kernel, precision),
        _ => (own, None),
    }
}

/// How a layout is run on a GPU of this compute capability.
pub(crate) fn execution(layout: &Layout, precision: DType, capability: (i32, i32)) -> Execution {
    let (major, _) = capability;
    let native = |kernel: String| Execution::Native { kernel };
    let unsupported = |reason: String| Execution::Unsupported { reason };
    match layout {
        Layout::Dense(dense) if !dense.dtype.is_float() => {
            unsupported(format!("dense {} values without a scale", dense.dtype))
        }
        Layout::Dense(dense) if dense.dtype != precision => native(format!(
            "dense_few to {} tokens, cuBLAS {precision} beyond, {} turned into it at load",
            dense_few::MOST_TOKENS,
            dense.dtype
        )),
        Layout::Dense(_) => native(format!(
            "dense_few to {} tokens, cuBLAS {precision} beyond",
            dense_few::MOST_TOKENS
        )),
        Layout::BlockCodebook(layout) if layout.bits == 4 => {
            let fused = element(precision).is_ok_and(|element| {
                codebook_many::Many::fits(&codebook_at(layout, &[0; 6]), element) && major == HOPPER
            });
            if fused {
                native(format!(
                    "codebook_few to {MOST_TOKENS} tokens, then codebook_many, or dequantize and cuBLAS where that is faster"
                ))
            } else {
                Execution::Dequantize {
                    to: precision,
                    when: DequantizeWhen::Forward,
                }
            }
        }
        Layout::Int8Vectorwise(layout) if layout.cols > MAX_COLS => unsupported(format!(
            "{} columns: integer sums over more than {MAX_COLS} may not fit into 32 bits",
            layout.cols
        )),
        Layout::Int8Vectorwise(layout) => {
            let fused = element(precision).is_ok_and(|element| {
                int8_many::Many::fits(&int8_at(layout, [0; 3]), element) && major == HOPPER
            });
            native(if fused { "int8_many" } else { "int8_any" }.to_owned())
        }
        Layout::ScaledFp8(layout) => fp8::execution(layout, capability),
        Layout::BlockCodebook(_) | Layout::Custom(_) => Execution::Dequantize {
            to: precision,
            when: DequantizeWhen::Load,
        },
        other => unsupported(format!("no kernel for layout {}", other.kind())),
    }
}

impl Linear {
    pub(crate) fn load(
        gpu: &Gpu,
        tensor: &dyn StoredTensor,
        bias: Option<Buffer>,
        precision: DType,
        threads: usize,
    ) -> Result<Loaded<Self>> {
        let layout = tensor.layout();
        check_buffers(tensor)?;
        let kernel = tensor.cuda_kernel()?;
        let (execution, _) = execution_with_kernel(layout, precision, gpu.capability(), kernel.as_ref());
        let weight = match (layout, &execution) {
            (_, Execution::Unsupported { reason }) => return Err(Error::Unsupported(reason.clone())),
            (_, Execution::SchemeKernel { .. }) => {
                let kernel =
                    kernel.ok_or_else(|| Error::Internal("a scheme's kernel that is gone".to_owned()))?;
                scheme_weight(gpu, tensor, &kernel, precision)?
            }
            (Layout::ScaledFp8(layout), _) => Weight::Fp8(Fp8Weight::load(gpu, tensor, layout)?),
            (Layout::Dense(dense), _) if dense.dtype == precision => {
                Weight::Dense(gpu.upload(tensor.buffer(0))?)
            }
            (Layout::BlockCodebook(layout), _) if layout.bits == 4 => {
                let buffers = upload(gpu, tensor)?;
                Weight::Codebook {
                    codebook: codebook_at(layout, &addresses(&buffers)),
                    buffers,
                    tables: tables(layout, tensor),
                }
            }
            (Layout::Int8Vectorwise(layout), _) => {
                let buffers = upload(gpu, tensor)?;
                let [codes, scales, threshold] = [0, 1, 2].map(|index: usize| buffers[index].address());
                Weight::Int8 {
                    int8: int8_at(layout, [codes, scales, threshold]),
                    buffers,
                    threshold: tensor.buffer(2).to_vec(),
                }
            }
            _ => Weight::Dense(dequantized(gpu, tensor, precision, threads)?),
        };
        let bytes = match &weight {
            Weight::Dense(buffer) => buffer.bytes(),
            Weight::Codebook { buffers, .. }
            | Weight::Int8 { buffers, .. }
            | Weight::Scheme { buffers, .. } => buffers.iter().map(Buffer::bytes).sum(),
            Weight::Fp8(weight) => weight.bytes(),
        };
        Ok(Loaded {
            value: Self {
                weight,
                rows: layout.rows(),
                cols: layout.cols(),
                bias,
                precision,
            },
            bytes: bytes as u64,
            execution,
        })
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    pub(crate) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    pub(crate) fn precision(&self) -> DType {
        self.precision
    }

    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// `x · Wᵀ + bias`, rounded once to the precision. `kept` belongs to `x`.
    pub(crate) fn forward(&self, gpu: &Gpu, x: CUdeviceptr, tokens: usize, kept: &Kept) -> Result<Buffer> {
        let out = gpu.buffer(tokens * self.rows * self.precision.size())?;
        self.multiply(gpu, (x, tokens), kept, (out.address(), element(self.precision)?))?;
        Ok(out)
    }

    /// The same for `silu(gate) · up` in place of `x`, if this weight's kernels do both at once.
    pub(crate) fn forward_gated(
        &self,
        gpu: &Gpu,
        (gate, up): (CUdeviceptr, CUdeviceptr),
        tokens: usize,
    ) -> Result<Option<Buffer>> {
        let Weight::Fp8(weight) = &self.weight else {
            return Ok(None);
        };
        let out = gpu.buffer(tokens * self.rows * self.precision.size())?;
        let bias = self.bias.as_ref().map(Buffer::address);
        weight.multiply_gated(
            gpu,
            (gate, up, tokens),
            bias,
            (out.address(), element(self.precision)?),
        )?;
        Ok(Some(out))
    }

    /// Writes `x · Wᵀ + bias`, rounded once to `out_element`, for `x` `[tokens, cols]` of the precision.
    pub(crate) fn forward_into(
        &self,
        gpu: &Gpu,
        x: (CUdeviceptr, usize),
        out: (CUdeviceptr, Element),
    ) -> Result<()> {
        self.multiply(gpu, x, &Kept::new(), out)
    }

    fn multiply(
        &self,
        gpu: &Gpu,
        (x, tokens): (CUdeviceptr, usize),
        kept: &Kept,
        (out, out_element): (CUdeviceptr, Element),
    ) -> Result<()> {
        let x = Input {
            address: x,
            tokens,
            element: element(self.precision)?,
        };
        let out = Output {
            address: out,
            element: out_element,
        };
        match (&self.weight, &self.bias) {
            (Weight::Int8 { int8, .. }, bias) => {
                multiply_int8(gpu, int8, x, bias.as_ref().map(Buffer::address), out)
            }
            (Weight::Fp8(weight), bias) => weight.multiply(
                gpu,
                (x.address, tokens, x.element),
                kept,
                bias.as_ref().map(Buffer::address),
                (out.address, out.element),
            ),
            (Weight::Codebook { codebook, .. }, None) if multiply_codebook(gpu, codebook, x, out)? => Ok(()),
            (_, None) => self.multiply_dense(gpu, x, out),
            (_, Some(bias)) => {
                let sums = gpu.buffer(tokens * self.rows * size_of::<f32>())?;
                let wide = Output {
                    address: sums.address(),
                    element: Element::F32,
                };
                self.multiply_dense(gpu, x, wide)?;
                // SAFETY: the sums and the output are `[tokens, rows]`, the bias has `rows` values.
                unsafe {
                    gpu.kernels.elementwise.add_bias(
                        sums.address(),
                        bias.address(),
                        out.address,
                        (tokens, self.rows),
                        out.element,
                        gpu.stream(),
                    )
                }
                .map_err(error::kernel)
            }
        }
    }

    /// By cuBLAS, with the weight as dense values.
    fn multiply_dense(&self, gpu: &Gpu, x: Input, out: Output) -> Result<()> {
        let shape = Shape {
            tokens: x.tokens,
            rows: self.rows,
            cols: self.cols,
        };
        let dense = self.dense(gpu)?;
        let settled = matches!(dense, Rows::Held(_));
        // SAFETY: the caller's memory has the shape's sizes, and the weight is `[rows, cols]`. One that is held was
        // written at load.
        unsafe {
            product::dense(
                gpu,
                shape,
                (x.address, dense.address(), x.element),
                (out.address, out.element),
                settled,
            )
        }
    }

    /// The weight as `[rows, cols]` of the precision.
    fn dense(&self, gpu: &Gpu) -> Result<Rows<'_>> {
        match &self.weight {
            Weight::Dense(buffer) => Ok(Rows::Held(buffer)),
            Weight::Codebook { codebook, .. } => {
                let out = gpu.buffer(self.rows * self.cols * self.precision.size())?;
                // SAFETY: the codebook's buffers were checked at load; `out` has room for every row.
                unsafe {
                    gpu.kernels.dequantize.run(
                        codebook,
                        0..self.rows,
                        out.address(),
                        element(self.precision)?,
                        gpu.stream(),
                    )
                }
                .map_err(error::kernel)?;
                Ok(Rows::Made(out))
            }
            Weight::Scheme {
                kernel, addresses, ..
            } => {
                let out = gpu.buffer(self.rows * self.cols * self.precision.size())?;
                // SAFETY: the buffers were checked at load and are on 256 bytes, as `out` is, which has room for every row.
                unsafe { kernel.run(0..self.rows, addresses, out.address(), gpu.stream()) }
                    .map_err(error::kernel)?;
                Ok(Rows::Made(out))
            }
            Weight::Int8 { .. } | Weight::Fp8(_) => Err(Error::Unsupported(
                "a table of embeddings in int8 or e4m3 on the GPU".to_owned(),
            )),
        }
    }

    /// The rows of a table of embeddings.
    pub(crate) fn gather(&self, gpu: &Gpu, indices: CUdeviceptr, count: usize) -> Result<Buffer> {
        let table = self.dense(gpu)?;
        let out = gpu.buffer(count * self.cols * self.precision.size())?;
        // SAFETY: the indices were checked to lie below the rows; sizes are those of the table and the output.
        unsafe {
            gpu.kernels.rows.gather(
                table.address(),
                indices,
                out.address(),
                count,
                self.cols,
                element(self.precision)?,
                gpu.stream(),
            )
        }
        .map_err(error::kernel)?;
        Ok(out)
    }
}

/// A dense weight, held or made for one use.
enum Rows<'a> {
    Held(&'a Buffer),
    Made(Buffer),
}

impl Rows<'_> {
    fn address(&self) -> CUdeviceptr {
        match self {
            Self::Held(buffer) => buffer.address(),
            Self::Made(buffer) => buffer.address(),
        }
    }
}

/// Activations of a product, `[tokens, cols]`.
#[derive(Clone, Copy)]
struct Input {
    address: CUdeviceptr,
    tokens: usize,
    element: Element,
}

/// Where a product goes, `[tokens, rows]`.
#[derive(Clone, Copy)]
struct Output {
    address: CUdeviceptr,
    element: Element,
}

/// Whether a kernel multiplies so many tokens on the codes.
pub(crate) fn multiplies_codes(gpu: &Gpu, weight: &Codebook, tokens: usize, element: Element) -> bool {
    gpu.kernels.codebook_few.fits(weight, tokens, element) || many_for(gpu, weight, tokens, element).is_some()
}

/// The kernel for many tokens, where it is the best way.
fn many_for<'a>(
    gpu: &'a Gpu,
    weight: &Codebook,
    tokens: usize,
    element: Element,
) -> Option<&'a codebook_many::Many> {
    gpu.kernels
        .codebook_many
        .as_ref()
        .filter(|many| codebook_many::Many::fits(weight, element) && many.is_faster(weight, tokens))
}

/// Multiplies on the codes, if a kernel fits; says whether one did.
fn multiply_codebook(gpu: &Gpu, weight: &Codebook, x: Input, out: Output) -> Result<bool> {
    if x.element != out.element {
        return Ok(false);
    }
    let kernels = &gpu.kernels;
    if kernels.codebook_few.fits(weight, x.tokens, x.element) {
        // SAFETY: the codebook's buffers were checked at load; input and output have the sizes told.
        unsafe {
            kernels
                .codebook_few
                .run(weight, x.address, x.tokens, out.address, x.element, gpu.stream())
        }
        .map_err(error::kernel)?;
        return Ok(true);
    }
    let Some(many) = many_for(gpu, weight, x.tokens, x.element) else {
        return Ok(false);
    };
    let workspace = gpu.buffer(many.workspace(weight, x.tokens))?;
    // SAFETY: as above, and the workspace is as long as asked for.
    unsafe {
        many.run(
            weight,
            x.address,
            x.tokens,
            out.address,
            x.element,
            workspace.address(),
            gpu.stream(),
        )
    }
    .map_err(error::kernel)?;
    Ok(true)
}

fn multiply_int8(gpu: &Gpu, weight: &Int8, x: Input, bias: Option<CUdeviceptr>, out: Output) -> Result<()> {
    let bytes = Activations::new(0, weight, x.tokens, x.element).bytes;
    let workspace = gpu.buffer(bytes)?;
    let mut activations = Activations::new(workspace.address(), weight, x.tokens, x.element);
    let kernels = &gpu.kernels;
    let many = kernels
        .int8_many
        .as_ref()
        .filter(|_| bias.is_none() && x.element == out.element && int8_many::Many::fits(weight, x.element));
    if many.is_some() {
        activations = activations.for_many();
    }
    // SAFETY: the weight's buffers were checked at load; input, output and workspace have the sizes told.
    unsafe {
        kernels
            .int8_quantize
            .run(weight, x.address, x.tokens, x.element, &activations, gpu.stream())
            .map_err(error::kernel)?;
        match many {
            Some(many) => many.run(
                weight,
                &activations,
                x.tokens,
                out.address,
                x.element,
                gpu.stream(),
            ),
            None => kernels.int8_any.run(
                weight,
                &activations,
                x.tokens,
                x.element,
                bias,
                (out.address, out.element),
                gpu.stream(),
            ),
        }
    }
    .map_err(error::kernel)
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

/// A layout's shape with the addresses of its buffers.
fn codebook_at(layout: &BlockCodebook, at: &[CUdeviceptr; 6]) -> Codebook {
    Codebook {
        rows: layout.rows,
        cols: layout.cols,
        block: layout.block,
        per_row: layout.blocks == Blocks::PerRow,
        low_first: layout.order == NibbleOrder::LowFirst,
        codes: at[0],
        table: at[1],
        scales: match layout.scale {
            Scale::F32 => Scales::Plain(at[2]),
            Scale::Coded { block } => Scales::Coded {
                codes: at[2],
                scales: at[3],
                table: at[4],
                offset: at[5],
                block,
            },
        },
    }
}

fn int8_at(layout: &Int8Vectorwise, [codes, scales, threshold]: [CUdeviceptr; 3]) -> Int8 {
    Int8 {
        rows: layout.rows,
        cols: layout.cols,
        codes,
        scales,
        threshold,
    }
}

/// The weight as dense values of the precision, a part at a time through memory of the host.
fn dequantized(gpu: &Gpu, tensor: &dyn StoredTensor, precision: DType, threads: usize) -> Result<Buffer> {
    let (rows, cols) = (tensor.layout().rows(), tensor.layout().cols());
    let row = cols * precision.size();
    let all = gpu.buffer(rows * row)?;
    let step = (STAGE / row.max(1)).clamp(1, rows.max(1));
    let mut stage = AlignedBuffer::zeroed(step * row);
    let mut values = vec![0.0; cols];
    let context = CallContext { threads };
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let part = &mut stage[..count * row];
        if let Some(dense) = tensor.dense() {
            for (index, bytes) in part.chunks_exact_mut(row).enumerate() {
                dense.read_row(first + index, &mut values)?;
                narrow(&values, precision, bytes)?;
            }
        } else {
            tensor.dequantize(first, &mut MatrixMut::new(part, count, cols, precision)?, context)?;
        }
        gpu.write(&all, first * row, part)?;
    }
    Ok(all)
}

/// Kernels index the buffers by the layout: their sizes are checked once, here.
fn check_buffers(tensor: &dyn StoredTensor) -> Result<()> {
    tensor.layout().validate()?;
    for (index, spec) in tensor.layout().buffers().iter().enumerate() {
        let found = tensor.buffer(index).len();
        if found != spec.bytes {
            return Err(Error::InvalidArgument(format!(
                "buffer `{}` of layout {}: expected {} bytes, found {found}",
                spec.name,
                tensor.layout().kind(),
                spec.bytes
            )));
        }
    }
    Ok(())
}
