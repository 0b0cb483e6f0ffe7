//! What touches each value once: sums, the gate of an MLP, biases, conversion to f32.

use crate::{
    CUdeviceptr, CUstream, Element, Function, Module, Result,
    driver::{arguments, fatbin, multiprocessors},
    packs::{PackedKernel, packed_kernel},
};

const THREADS: usize = 256;
/// Blocks a multiprocessor: enough threads to fill it.
const BLOCKS: usize = 8;

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct Elementwise {
    add: PackedKernel,
    silu_product: PackedKernel,
    widen: PackedKernel,
    add_bias: [Function; 3],
    most_blocks: usize,
    _module: Module,
}

impl Elementwise {
    /// Loads the kernels into the current context.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn load() -> Result<Self> {
        let module = Module::load(fatbin!("elementwise"))?;
        let add_bias = |element: Element| module.function(&format!("add_bias_{}", element.name()));
        Ok(Self {
            add: packed_kernel(&module, "add")?,
            silu_product: packed_kernel(&module, "silu_product")?,
            widen: packed_kernel(&module, "widen")?,
            add_bias: [
                add_bias(Element::F32)?,
                add_bias(Element::F16)?,
                add_bias(Element::BF16)?,
            ],
            most_blocks: multiprocessors()? as usize * BLOCKS,
            _module: module,
        })
    }

    fn grid(&self, values: usize, pack: usize) -> [u32; 3] {
        [
            values.div_ceil(THREADS * pack).clamp(1, self.most_blocks) as u32,
            1,
            1,
        ]
    }

    unsafe fn pairwise(
        &self,
        kernel: &PackedKernel,
        (x, y): (CUdeviceptr, CUdeviceptr),
        values: usize,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let (function, pack) = kernel.pick(element, values);
        // SAFETY: types and order are those of the kernels; memory is as the caller promises.
        unsafe {
            function.launch_overlapping(
                self.grid(values, pack),
                THREADS as u32,
                0,
                stream,
                arguments![&x, &y, &(values as i64)],
            )
        }
    }

    /// `x += y`.
    ///
    /// # Safety
    /// Both are `values` elements, aligned to 16 bytes; so for the following.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver); so for the following.
    pub unsafe fn add(
        &self,
        x: CUdeviceptr,
        y: CUdeviceptr,
        values: usize,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.pairwise(&self.add, (x, y), values, element, stream) }
    }

    /// `gate = gate / (1 + e^-gate) · up`.
    ///
    /// # Safety
    /// See [`add`](Self::add).
    ///
    /// # Errors
    /// See [`add`](Self::add).
    pub unsafe fn silu_product(
        &self,
        gate: CUdeviceptr,
        up: CUdeviceptr,
        values: usize,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.pairwise(&self.silu_product, (gate, up), values, element, stream) }
    }

    /// Writes `x` as f32 to `out`.
    ///
    /// # Safety
    /// See [`add`](Self::add); `out` is f32.
    ///
    /// # Errors
    /// See [`add`](Self::add).
    pub unsafe fn widen(
        &self,
        x: CUdeviceptr,
        out: CUdeviceptr,
        values: usize,
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.pairwise(&self.widen, (x, out), values, element, stream) }
    }

    /// Writes `sums + bias` to `out`, rounded once, for rows of `width` f32 sums.
    ///
    /// # Safety
    /// `sums` and `out` are `rows · width` elements, `bias` is `width` f32 values.
    ///
    /// # Errors
    /// See [`add`](Self::add).
    pub unsafe fn add_bias(
        &self,
        sums: CUdeviceptr,
        bias: CUdeviceptr,
        out: CUdeviceptr,
        (rows, width): (usize, usize),
        element: Element,
        stream: CUstream,
    ) -> Result<()> {
        let values = rows * width;
        // SAFETY: types and order are those of the kernel; memory is as the caller promises.
        unsafe {
            self.add_bias[element as usize].launch_overlapping(
                self.grid(values, 1),
                THREADS as u32,
                0,
                stream,
                arguments![&sums, &bias, &out, &(values as i64), &(width as i32)],
            )
        }
    }
}
