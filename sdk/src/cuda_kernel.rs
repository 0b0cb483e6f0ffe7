//! `qbench.cuda-kernel/1`: a scheme's own CUDA kernel, which turns its stored weights into floats on the device.
//!
//! A scheme whose layout a GPU backend does not know would be dequantised on the host when the model is loaded. With a
//! kernel, the weights stay packed in device memory, and the backend turns them into floats on the device, a tile of
//! rows at a time, before each product. Results then say [`SchemeKernel`](crate::backend::Execution::SchemeKernel).
//!
//! # The contract
//! **Source.** CUDA C++ that needs no header (it is compiled by NVRTC with `--std=c++17 --fmad=false` for the device at
//! hand, with no other option), or PTX of a version and target that the device's driver can compile. Each entry is a
//! `__global__ void` function with C linkage, one for each type that it can write.
//!
//! **Arguments**, each of 8 bytes, in this order:
//!
//! | argument | type in CUDA | meaning |
//! |---|---|---|
//! | `out` | `T *` | where element (`first_row`, 0) goes; row-major `[rows, cols]` without gaps, on at least 16 bytes |
//! | `first_row` | `unsigned long long` | first row of the weight that is wanted |
//! | `rows` | `unsigned long long` | number of rows that are wanted, at least 1 |
//! | `cols` | `unsigned long long` | columns of the weight, at least 1 |
//! | each buffer | `const void *` | the layout's buffers in their order, whole, each on at least 16 bytes; null if empty |
//! | each constant | `long long` | [`CudaKernel::constants`] in their order |
//!
//! `T` is `float`, or `unsigned short` with the bits of an f16 or bf16: a header for these types is not to be had
//! everywhere.
//!
//! **Launch.** Blocks of `threads` × 1 × 1 threads, a grid of `⌈rows / tile_rows⌉` × `⌈cols / tile_cols⌉` × 1 blocks,
//! `shared_bytes` of dynamic shared memory: see [`LaunchGeometry`]. Block (x, y) is meant to write the tile that starts
//! at row x · `tile_rows` of the output and column y · `tile_cols`.
//!
//! **Behaviour.** It writes every element of `out` and nothing else, with the values that
//! [`QuantScheme::dequantize`](crate::QuantScheme::dequantize) writes, rounded once to `T`; reads nothing but its
//! arguments; is finished when it returns (no dynamic parallelism, no allocation, no `printf`). The backend launches it
//! on its own stream, in any order and any number of times.
//!
//! # Example
//! One signed byte a weight and one scale a row, a block of 256 threads a row (`tile_rows` 1, `tile_cols` the largest u32):
//!
//! ```c
//! extern "C" __global__ void bytes_f32(
//!     float *out, unsigned long long first_row, unsigned long long rows, unsigned long long cols,
//!     const signed char *codes, const float *scales)
//! {
//!     unsigned long long row = blockIdx.x;
//!     for (unsigned long long col = threadIdx.x; col < cols; col += blockDim.x)
//!         out[row * cols + col] = codes[(first_row + row) * cols + col] * scales[first_row + row];
//! }
//! ```
//!
//! `examples/plugin-c` in qbench's repository has a whole scheme with a kernel for two types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DType, Error, Result};

/// Largest source, in bytes.
const MAX_SOURCE: usize = 16 << 20;
/// Largest block of any CUDA device.
const MAX_THREADS: u32 = 1024;
/// Dynamic shared memory that every device grants without being asked.
const MAX_SHARED: u32 = 48 << 10;
/// Largest extent of a grid in its second dimension.
const MAX_GRID_Y: u64 = 65_535;
/// Bytes of arguments that every device takes.
const MAX_ARGUMENT_BYTES: usize = 4096;
/// `out`, `first_row`, `rows`, `cols`.
const FIXED_ARGUMENTS: usize = 4;

/// A CUDA kernel that turns stored weights into floats. The [module](self) says how it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaKernel {
    /// What results call it.
    pub name: String,
    /// The kernel's text.
    pub source: KernelSource,
    /// For each type that it can write, the name of the function.
    pub entries: BTreeMap<DType, String>,
    /// Blocks and threads.
    pub geometry: LaunchGeometry,
    /// Integers that are passed after the buffers. Floats belong into a buffer.
    #[serde(default)]
    pub constants: Vec<i64>,
}

/// The text of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "language", content = "text")]
pub enum KernelSource {
    /// CUDA C++ for NVRTC.
    CudaC(String),
    /// Parallel thread execution assembly.
    Ptx(String),
}

/// How many threads run a kernel: a block of `threads` writes a tile of `tile_rows` × `tile_cols` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchGeometry {
    /// Threads a block, all in x: 1 to 1024.
    pub threads: u32,
    /// Rows a block; blocks follow each other in x.
    pub tile_rows: u32,
    /// Columns a block; blocks follow each other in y.
    pub tile_cols: u32,
    /// Dynamic shared memory a block, in bytes: at most 48 KiB.
    #[serde(default)]
    pub shared_bytes: u32,
}

impl LaunchGeometry {
    /// Blocks in x and y for an output of `rows` × `cols`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the grid would be larger than a device's can be.
    pub fn grid(&self, rows: usize, cols: usize) -> Result<[u32; 2]> {
        let x = (rows as u64).div_ceil(u64::from(self.tile_rows.max(1)));
        let y = (cols as u64).div_ceil(u64::from(self.tile_cols.max(1)));
        match (i32::try_from(x), u32::try_from(y)) {
            (Ok(x), Ok(y)) if u64::from(y) <= MAX_GRID_Y => Ok([x.unsigned_abs(), y]),
            _ => Err(Error::Unsupported(format!(
                "a grid of {x} x {y} blocks for {rows} x {cols} elements; at most {} x {MAX_GRID_Y} can be launched",
                i32::MAX
            ))),
        }
    }
}

impl CudaKernel {
    /// The function that writes elements of type `dtype`, if there is one.
    pub fn entry(&self, dtype: DType) -> Option<&str> {
        self.entries.get(&dtype).map(String::as_str)
    }

    /// Checks the description for a layout of `buffers` buffers; the source is not compiled.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with what is wrong.
    pub fn validate(&self, buffers: usize) -> Result<()> {
        let invalid = |what: String| {
            Err(Error::InvalidArgument(format!(
                "CUDA kernel `{}`: {what}",
                self.name
            )))
        };
        let (KernelSource::CudaC(text) | KernelSource::Ptx(text)) = &self.source;
        if text.is_empty() || text.len() > MAX_SOURCE || text.contains('\0') {
            return invalid(format!(
                "a source of {} bytes; expected text without zero bytes, of at most {MAX_SOURCE} bytes",
                text.len()
            ));
        }
        if self.entries.is_empty() {
            return invalid("it has no entry".to_owned());
        }
        for (dtype, entry) in &self.entries {
            if !dtype.is_float() {
                return invalid(format!("an entry that writes {dtype}; expected f32, f16 or bf16"));
            }
            if !is_identifier(entry) {
                return invalid(format!("`{entry}` is no name of a function with C linkage"));
            }
        }
        let LaunchGeometry {
            threads,
            tile_rows,
            tile_cols,
            shared_bytes,
        } = self.geometry;
        if !(1..=MAX_THREADS).contains(&threads) {
            return invalid(format!("{threads} threads a block; expected 1 to {MAX_THREADS}"));
        }
        if tile_rows == 0 || tile_cols == 0 {
            return invalid(format!("a tile of {tile_rows} x {tile_cols} elements"));
        }
        if shared_bytes > MAX_SHARED {
            return invalid(format!(
                "{shared_bytes} bytes of shared memory; at most {MAX_SHARED}"
            ));
        }
        let arguments = FIXED_ARGUMENTS
            .saturating_add(buffers)
            .saturating_add(self.constants.len());
        if arguments > MAX_ARGUMENT_BYTES / 8 {
            return invalid(format!(
                "{arguments} arguments; at most {}",
                MAX_ARGUMENT_BYTES / 8
            ));
        }
        Ok(())
    }
}

fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> CudaKernel {
        CudaKernel {
            name: "copy".to_owned(),
            source: KernelSource::CudaC("extern \"C\" __global__ void copy_f32() {}".to_owned()),
            entries: BTreeMap::from([(DType::F32, "copy_f32".to_owned())]),
            geometry: LaunchGeometry {
                threads: 256,
                tile_rows: 1,
                tile_cols: 1024,
                shared_bytes: 0,
            },
            constants: vec![-3, i64::MAX],
        }
    }

    #[test]
    fn its_json_is_as_documented() {
        let json = serde_json::to_value(kernel()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "name": "copy",
                "source": {"language": "cuda_c", "text": "extern \"C\" __global__ void copy_f32() {}"},
                "entries": {"f32": "copy_f32"},
                "geometry": {"threads": 256, "tile_rows": 1, "tile_cols": 1024, "shared_bytes": 0},
                "constants": [-3, i64::MAX],
            })
        );
        assert_eq!(serde_json::from_value::<CudaKernel>(json).unwrap(), kernel());
    }

    #[test]
    fn a_grid_covers_the_output_and_no_more() {
        let geometry = kernel().geometry;
        assert_eq!(geometry.grid(3, 1024).unwrap(), [3, 1]);
        assert_eq!(geometry.grid(3, 1025).unwrap(), [3, 2]);
        assert!(geometry.grid(1, 1024 * 65_535).is_ok());
        assert!(geometry.grid(1, 1024 * 65_535 + 1).is_err());
        assert!(geometry.grid(1 << 31, 1).is_err());
    }

    #[test]
    fn an_impossible_description_is_refused() {
        kernel().validate(3).unwrap();
        let refused = |change: fn(&mut CudaKernel), expected: &str| {
            let mut kernel = kernel();
            change(&mut kernel);
            let message = kernel.validate(3).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(|kernel| kernel.entries.clear(), "no entry");
        refused(
            |kernel| kernel.entries = BTreeMap::from([(DType::I8, "copy".to_owned())]),
            "writes i8",
        );
        refused(
            |kernel| kernel.entries = BTreeMap::from([(DType::F32, "copy<float>".to_owned())]),
            "copy<float>",
        );
        refused(|kernel| kernel.geometry.threads = 1025, "1025 threads");
        refused(|kernel| kernel.geometry.tile_cols = 0, "a tile of 1 x 0");
        refused(|kernel| kernel.geometry.shared_bytes = 49_153, "49153 bytes");
        refused(|kernel| kernel.constants = vec![0; 506], "513 arguments");
        refused(
            |kernel| kernel.source = KernelSource::Ptx("\0".to_owned()),
            "zero bytes",
        );
        assert!(kernel().validate(usize::MAX).is_err());
    }
}
