//! How a layout is run on a GPU.

use qbench_kernels::{
    Codebook, Element, Int8, codebook_few::MOST_TOKENS, codebook_many, dense_few, int8_few, int8_many,
    scheme_kernel,
};
use qbench_sdk::{
    CudaKernel, DType, Layout,
    backend::{DequantizeWhen, Execution},
    layout::int8::MAX_COLS,
};

use crate::{fp8, gpu::element};

/// The major compute capability of Hopper, whose products the fused kernels use.
const HOPPER: i32 = 9;

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
                codebook_many::Many::fits(&Codebook::at(layout, &[0; 6]), element) && major == HOPPER
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
            let weight = Int8::at(layout, [0; 3]);
            let known = |knows: fn(&Int8, Element) -> bool| {
                element(precision).is_ok_and(|element| knows(&weight, element))
            };
            let many = if known(int8_many::Many::fits) && major == HOPPER {
                "int8_many"
            } else {
                "int8_any"
            };
            native(if known(int8_few::Few::knows) {
                format!(
                    "int8_few to {} tokens at most, {many} beyond",
                    int8_few::MOST_TOKENS
                )
            } else {
                many.to_owned()
            })
        }
        Layout::ScaledFp8(layout) => fp8::execution(layout, capability),
        Layout::BlockCodebook(_) | Layout::Custom(_) => Execution::Dequantize {
            to: precision,
            when: DequantizeWhen::Load,
        },
        other => unsupported(format!("no kernel for layout {}", other.kind())),
    }
}
