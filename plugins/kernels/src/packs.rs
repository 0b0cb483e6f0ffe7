//! Kernels that come for each element type and for packs of 8 elements or of 1 (`cuda/packs.cuh`).

use crate::{Element, Function, Module, Result};

/// Elements of the larger pack.
const PACK: usize = 8;

/// The variants of one kernel: by element type, then packs of 8 and of 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedKernel([[Function; 2]; 3]);

/// Finds the variants `NAME_TYPE_COUNT`.
pub(crate) fn packed_kernel(module: &Module, name: &str) -> Result<PackedKernel> {
    let variants = |element: Element| -> Result<[Function; 2]> {
        let variant = |count: usize| module.function(&format!("{name}_{}_{count}", element.name()));
        Ok([variant(PACK)?, variant(1)?])
    };
    Ok(PackedKernel([
        variants(Element::F32)?,
        variants(Element::F16)?,
        variants(Element::BF16)?,
    ]))
}

impl PackedKernel {
    /// The variant for rows of `width` elements, and the elements of its packs.
    pub(crate) fn pick(&self, element: Element, width: usize) -> (Function, usize) {
        let [packed, single] = self.0[element as usize];
        if width.is_multiple_of(PACK) {
            (packed, PACK)
        } else {
            (single, 1)
        }
    }
}
