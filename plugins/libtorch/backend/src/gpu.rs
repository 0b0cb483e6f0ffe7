//! Our kernels on torch's tensors, in the order of the stream that torch's operations run on.
//!
//! A tensor that is made here and dropped goes back to torch's allocator, which gives it only to later work of the same
//! stream.

use std::cell::OnceCell;

use qbench_kernels::{
    CUdeviceptr, CUstream, Codebook, Element, Fp8, Fp8Activations, Int8,
    codebook_dequantize::Dequantize,
    codebook_few, codebook_many,
    dense_few::{self, Shape},
    elementwise::Elementwise,
    fp8_product::{self, Choice, Product},
    fp8_quantize, int8_any, int8_few, int8_many,
    int8_quantize::{self, Activations},
    norm::Norm,
    rope::{Heads, Rope},
    scheme_kernel::{SchemeKernel, SchemeKernels},
};
use qbench_sdk::{
    CudaKernel, DType, Error, Layout, Result,
    layout::{BlockCodebook, Int8Vectorwise},
};
use tch::{Device, Kind, Tensor};

use crate::{
    error::{Named, kernel},
    linear::Held,
    native,
    tensors::kind,
};

/// The major compute capability of Hopper, whose products the fused kernels use.
const HOPPER: i32 = 9;

/// One GPU with our kernels, for one precision.
pub(crate) struct Gpu {
    device: Device,
    stream: CUstream,
    precision: DType,
    element: Element,
    codebook_few: codebook_few::Few,
    /// On Hopper only, as the other `many`.
    codebook_many: Option<codebook_many::Many>,
    dense_few: dense_few::Few,
    dequantize: Dequantize,
    elementwise: Elementwise,
    int8_any: int8_any::Any,
    int8_few: int8_few::Few,
    int8_many: Option<int8_many::Many>,
    int8_quantize: int8_quantize::Quantize,
    norm: Norm,
    rope: Rope,
    /// Loaded when the first weight needs them.
    fp8: OnceCell<(fp8_quantize::Quantize, Product)>,
    /// Those that schemes brought.
    scheme_kernels: SchemeKernels,
}

// SAFETY: the stream belongs to its device, not to a thread; everything else is Send.
unsafe impl Send for Gpu {}

/// Whether the fused kernels multiply weights of this layout.
pub(crate) fn fuses_codebook(layout: &BlockCodebook, precision: DType, major: i32) -> bool {
    layout.bits == 4
        && major == HOPPER
        && element(precision)
            .is_ok_and(|element| codebook_many::Many::fits(&Codebook::at(layout, &[0; 6]), element))
}

/// The kernels that multiply int8 weights of this layout.
pub(crate) fn int8_kernel(layout: &Int8Vectorwise, precision: DType, major: i32) -> String {
    let weight = Int8::at(layout, [0; 3]);
    let known =
        |knows: fn(&Int8, Element) -> bool| element(precision).is_ok_and(|element| knows(&weight, element));
    let many = if known(int8_many::Many::fits) && major == HOPPER {
        "int8_many"
    } else {
        "int8_any"
    };
    if known(int8_few::Few::knows) {
        format!(
            "int8_few to {} tokens at most, {many} beyond",
            int8_few::MOST_TOKENS
        )
    } else {
        many.to_owned()
    }
}

impl Gpu {
    /// Loads the kernels into the context of this thread's device.
    pub(crate) fn new(ordinal: usize, precision: DType) -> Result<Self> {
        let stream = native::cuda_stream(ordinal)?.cast();
        let device = Device::Cuda(ordinal);
        let element = element(precision)?;
        let load = || -> qbench_kernels::Result<Self> {
            Ok(Self {
                device,
                stream,
                precision,
                element,
                codebook_few: codebook_few::Few::load()?,
                codebook_many: codebook_many::Many::load()?,
                dense_few: dense_few::Few::load()?,
                dequantize: Dequantize::load()?,
                elementwise: Elementwise::load()?,
                int8_any: int8_any::Any::load()?,
                int8_few: int8_few::Few::load()?,
                int8_many: int8_many::Many::load()?,
                int8_quantize: int8_quantize::Quantize::load()?,
                norm: Norm::load()?,
                rope: Rope::load()?,
                fp8: OnceCell::new(),
                scheme_kernels: SchemeKernels::default(),
            })
        };
        load().map_err(kernel)
    }

    fn empty(&self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        Tensor::f_empty(shape, (kind, self.device)).op("empty")
    }

    fn bytes(&self, count: usize) -> Result<Tensor> {
        self.empty(&[count as i64], Kind::Uint8)
    }

    /// `x · Wᵀ` for few tokens, if a kernel fits.
    pub(crate) fn dense_product(&self, x: &Tensor, weight: &Tensor, out: Kind) -> Result<Option<Tensor>> {
        let (tokens, _) = sizes(x);
        let (rows, cols) = sizes(weight);
        let shape = Shape { tokens, rows, cols };
        if !shape.fits() {
            return Ok(None);
        }
        let y = self.empty(&[tokens as i64, rows as i64], out)?;
        // SAFETY: the tensors have the shape's sizes and are contiguous; rows of whole packs are aligned.
        unsafe {
            self.dense_few.run(
                shape,
                (address(x)?, address(weight)?, self.element),
                (address(&y)?, self.element_of(out)),
                false,
                self.stream,
            )
        }
        .map_err(kernel)?;
        Ok(Some(y))
    }

    /// `x · Wᵀ` on the codes, if a kernel fits.
    pub(crate) fn codebook_product(
        &self,
        layout: &BlockCodebook,
        held: &Held,
        x: &Tensor,
    ) -> Result<Option<Tensor>> {
        let (tokens, _) = sizes(x);
        if layout.bits != 4 {
            return Ok(None);
        }
        let weight = Codebook::at(layout, &addresses(held)?);
        let element = self.element;
        let y = || self.empty(&[tokens as i64, layout.rows as i64], kind(self.precision));
        if self.codebook_few.fits(&weight, tokens, element) {
            let y = y()?;
            // SAFETY: the weight's buffers were checked at load; input and output have the sizes told.
            unsafe {
                self.codebook_few
                    .run(&weight, address(x)?, tokens, address(&y)?, element, self.stream)
            }
            .map_err(kernel)?;
            return Ok(Some(y));
        }
        let Some(many) = self
            .codebook_many
            .as_ref()
            .filter(|many| codebook_many::Many::fits(&weight, element) && many.is_faster(&weight, tokens))
        else {
            return Ok(None);
        };
        let y = y()?;
        let workspace = self.bytes(many.workspace(&weight, tokens).max(1))?;
        // SAFETY: as above, and the workspace is as long as asked for.
        unsafe {
            many.run(
                &weight,
                address(x)?,
                tokens,
                address(&y)?,
                element,
                address(&workspace)?,
                self.stream,
            )
        }
        .map_err(kernel)?;
        Ok(Some(y))
    }

    /// The weight as `[rows, cols]` of the precision; codes of 4 bits.
    pub(crate) fn decode(&self, layout: &BlockCodebook, held: &Held) -> Result<Tensor> {
        let weight = Codebook::at(layout, &addresses(held)?);
        let out = self.empty(&[layout.rows as i64, layout.cols as i64], kind(self.precision))?;
        // SAFETY: the weight's buffers were checked at load; `out` has room for every row.
        unsafe {
            self.dequantize
                .run(&weight, 0..layout.rows, address(&out)?, self.element, self.stream)
        }
        .map_err(kernel)?;
        Ok(out)
    }

    /// `x · Wᵀ + bias` of LLM.int8().
    pub(crate) fn int8_product(
        &self,
        held: &Held,
        (rows, cols): (usize, usize),
        x: &Tensor,
        bias: Option<&Tensor>,
        out: Kind,
    ) -> Result<Tensor> {
        let [codes, scales, threshold, ..] = addresses(held)?;
        let weight = Int8::at(&Int8Vectorwise { rows, cols }, [codes, scales, threshold]);
        let (tokens, _) = sizes(x);
        let y = self.empty(&[tokens as i64, rows as i64], out)?;
        let (x, to) = (address(x)?, (address(&y)?, self.element_of(out)));
        if bias.is_none() && to.1 == self.element && self.int8_few.fits(&weight, tokens, self.element) {
            let product = [(&weight, to.0)];
            // SAFETY: the weight's buffers were checked and written at load; input and output have the sizes told.
            unsafe {
                self.int8_few
                    .run(&product, false, (x, tokens), self.element, self.stream)
            }
            .map_err(kernel)?;
            return Ok(y);
        }
        let workspace = self.bytes(Activations::new(0, &weight, tokens, self.element).bytes)?;
        let mut activations = Activations::new(address(&workspace)?, &weight, tokens, self.element);
        let many = self.int8_many.as_ref().filter(|_| {
            bias.is_none() && to.1 == self.element && int8_many::Many::fits(&weight, self.element)
        });
        if many.is_some() {
            activations = activations.for_many();
        }
        let bias = bias.map(address).transpose()?;
        // SAFETY: the weight's buffers were checked at load; input, output and workspace have the sizes told; the bias
        // has `rows` f32 values.
        unsafe {
            self.int8_quantize
                .run(&weight, x, tokens, self.element, &activations, self.stream)
                .map_err(kernel)?;
            match many {
                Some(many) => many.run(&weight, &activations, tokens, to.0, self.element, self.stream),
                None => self
                    .int8_any
                    .run(&weight, &activations, tokens, self.element, bias, to, self.stream),
            }
        }
        .map_err(kernel)?;
        Ok(y)
    }

    /// `x · Wᵀ + bias` in e4m3, of a weight whose codes and scales are filled up to whole packs.
    pub(crate) fn fp8_product(
        &self,
        [codes, scales]: [&Tensor; 2],
        (rows, cols): (usize, usize),
        x: &Tensor,
        bias: Option<&Tensor>,
        out: Kind,
    ) -> Result<Tensor> {
        let (quantize, product) = self.fp8()?;
        let weight = Fp8 {
            rows,
            cols,
            codes: address(codes)?,
            scales: address(scales)?,
        };
        let (tokens, _) = sizes(x);
        let held = self.bytes(Fp8Activations::new(0, tokens, cols).bytes)?;
        let activations = Fp8Activations::new(address(&held)?, tokens, cols);
        let (element, biased) = (self.element_of(out), bias.is_some());
        let sums = product.sums(&weight, tokens, element, biased).map_err(kernel)?;
        // Torch's allocator keeps what was freed, and gives it again.
        let memory = [self.bytes(fp8_product::WORKSPACE)?, self.bytes(sums.max(1))?];
        let (workspace, sums) = (address(&memory[0])?, address(&memory[1])?);
        let y = self.empty(&[tokens as i64, rows as i64], out)?;
        let (x, to) = (address(x)?, (address(&y)?, element));
        let bias = bias.map(address).transpose()?;
        // SAFETY: the weight was filled up to whole packs; input, output and what lies between have the sizes told.
        unsafe {
            quantize
                .run(x, (tokens, cols), self.element, &activations, self.stream)
                .and_then(|()| {
                    product.run(
                        &weight,
                        &activations,
                        tokens,
                        bias,
                        to,
                        workspace,
                        sums,
                        self.stream,
                    )
                })
        }
        .map_err(kernel)?;
        Ok(y)
    }

    /// The kernels of products in e4m3, loaded once.
    pub(crate) fn fp8(&self) -> Result<&(fp8_quantize::Quantize, Product)> {
        if let Some(kernels) = self.fp8.get() {
            return Ok(kernels);
        }
        let product = Product::load(Choice::default()).map_err(kernel)?;
        let product =
            product.ok_or_else(|| Error::Unsupported("products in e4m3 on a GPU before 8.9".to_owned()))?;
        let quantize = fp8_quantize::Quantize::load().map_err(kernel)?;
        Ok(self.fp8.get_or_init(|| (quantize, product)))
    }

    /// Compiles the kernel that a scheme brings for a layout.
    pub(crate) fn scheme_kernel(&self, brought: &CudaKernel, layout: &Layout) -> Result<SchemeKernel> {
        self.scheme_kernels
            .load(brought, self.precision, layout)
            .map_err(kernel)
    }

    /// The weight as `[rows, cols]` of the precision, by its scheme's kernel.
    pub(crate) fn scheme_decode(
        &self,
        scheme: &SchemeKernel,
        (rows, cols): (usize, usize),
        held: &Held,
    ) -> Result<Tensor> {
        let out = self.empty(&[rows as i64, cols as i64], kind(self.precision))?;
        let buffers = held
            .tensors()
            .iter()
            .map(|tensor| {
                if tensor.numel() == 0 {
                    Ok(0)
                } else {
                    address(tensor)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        // SAFETY: the weight's buffers were checked at load, torch's memory is on 512 bytes, and `out` has room for every
        // row.
        unsafe { scheme.run(0..rows, &buffers, address(&out)?, self.stream) }.map_err(kernel)?;
        Ok(out)
    }

    /// The norm of `x`, after `delta` was added to it in place.
    pub(crate) fn rms_norm(
        &self,
        x: &Tensor,
        delta: Option<&Tensor>,
        weight: &Tensor,
        eps: f32,
    ) -> Result<Tensor> {
        let (rows, width) = sizes(x);
        let out = self.empty(&[rows as i64, width as i64], kind(self.precision))?;
        // SAFETY: all activations are `[rows, width]`, the weight has `width` f32 values.
        unsafe {
            self.norm.run(
                address(x)?,
                delta.map(address).transpose()?,
                address(weight)?,
                eps,
                address(&out)?,
                (rows, width),
                self.element,
                self.stream,
            )
        }
        .map_err(kernel)?;
        Ok(out)
    }

    /// Turns the heads of queries and keys in place; the tables are `[length, head_dim / 2]`.
    pub(crate) fn rope(
        &self,
        (q, k): (&Tensor, &Tensor),
        head_dim: usize,
        (cos, sin): (&Tensor, &Tensor),
    ) -> Result<()> {
        let (rows, q_width) = sizes(q);
        let heads = Heads {
            q: address(q)?,
            q_heads: q_width / head_dim,
            k: address(k)?,
            k_heads: sizes(k).1 / head_dim,
            head_dim,
            rows,
            length: sizes(cos).0,
        };
        // SAFETY: queries and keys have the sizes told; the tables are those of the pass's positions.
        unsafe {
            self.rope
                .run(&heads, (address(cos)?, address(sin)?), self.element, self.stream)
        }
        .map_err(kernel)
    }

    /// `gate = silu(gate) · up`, in place.
    pub(crate) fn silu_product(&self, gate: &Tensor, up: &Tensor) -> Result<()> {
        // SAFETY: both have the same sizes.
        unsafe {
            self.elementwise.silu_product(
                address(gate)?,
                address(up)?,
                gate.numel(),
                self.element,
                self.stream,
            )
        }
        .map_err(kernel)
    }

    /// Of an output: the precision or f32.
    fn element_of(&self, out: Kind) -> Element {
        if out == Kind::Float {
            Element::F32
        } else {
            self.element
        }
    }
}

fn element(dtype: DType) -> Result<Element> {
    match dtype {
        DType::F32 => Ok(Element::F32),
        DType::F16 => Ok(Element::F16),
        DType::BF16 => Ok(Element::BF16),
        DType::I8 | DType::U8 => Err(Error::Unsupported(format!("precision {dtype}"))),
    }
}

/// Rows and columns of a matrix.
fn sizes(matrix: &Tensor) -> (usize, usize) {
    let shape = matrix.size();
    (shape[0] as usize, shape[1] as usize)
}

/// The address of a tensor's first element.
fn address(tensor: &Tensor) -> Result<CUdeviceptr> {
    if !(tensor.device().is_cuda() && tensor.is_contiguous()) {
        return Err(Error::Internal(format!(
            "a tensor {:?} that is not one block of the GPU's memory",
            tensor.size()
        )));
    }
    Ok(tensor.data_ptr() as CUdeviceptr)
}

/// The addresses of up to six buffers.
fn addresses(held: &Held) -> Result<[CUdeviceptr; 6]> {
    let mut addresses = [0; 6];
    for (to, tensor) in addresses.iter_mut().zip(held.tensors()) {
        *to = address(tensor)?;
    }
    Ok(addresses)
}
