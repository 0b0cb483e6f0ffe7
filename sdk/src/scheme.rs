//! Quantisation schemes: how a weight matrix is represented.

use serde::{Deserialize, Serialize};

use crate::{CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Result, layout};

/// Limits of a call into a scheme or tensor.
#[derive(Clone, Copy, Debug)]
pub struct CallContext {
    /// Threads that may be used at most.
    pub threads: usize,
}

impl CallContext {
    /// One thread.
    pub fn single_threaded() -> Self {
        Self { threads: 1 }
    }
}

/// What a scheme is called and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemeInfo {
    /// The mode's name, as the user types it and as tables show it; unique among all plugins.
    pub id: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One line for `qbench plugin list`.
    pub summary: String,
    /// Options with their defaults, such as `("block", "64")`.
    #[serde(default)]
    pub options: Vec<(String, String)>,
}

/// A quantisation scheme.
///
/// A scheme describes its storage (a [`Layout`]) and fills the buffers of that description. Any backend that knows the
/// description then runs it with kernels of its own; a scheme that fits no description uses [`Layout::Custom`] and
/// implements [`dequantize`](Self::dequantize), and [`matmul`](Self::matmul) where it can be fast.
///
/// Every method may be called from several threads at once.
pub trait QuantScheme: Send + Sync + 'static {
    /// Name and description.
    fn info(&self) -> SchemeInfo;

    /// How a `rows` × `cols` matrix (`[out_features, in_features]`) of type `source` is stored.
    ///
    /// Pure: the same arguments give the same layout, and no data is seen. A dense layout in the type `source` means that
    /// the weight is stored unchanged: the host may then hand out the checkpoint's own bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a shape or type that the scheme cannot store.
    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout>;

    /// Fills `buffers`, one for each of [`Layout::buffers`] in that order, each zeroed and 64-byte aligned.
    ///
    /// The result depends on `source` alone, not on the number of threads.
    ///
    /// # Errors
    /// Whatever keeps the scheme from storing this matrix.
    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()>;

    /// Writes the rows `first_row .. first_row + out.rows()` of the stored matrix, rounded once to `out`'s type.
    ///
    /// The default decodes described layouts with [`layout::decode`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a layout that the sdk does not know.
    fn dequantize(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        first_row: usize,
        out: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        let _ = context;
        layout::decode(layout, buffers, first_row, out)
    }

    /// `output = input · Wᵀ` for `input` `[tokens, cols]` and `output` `[tokens, rows]`, on the CPU.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the scheme has no product of its own, which is the default.
    fn matmul(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        input: Matrix<'_>,
        output: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        let _ = (layout, buffers, input, output, context);
        Err(Error::Unsupported(
            "a matrix product of the scheme's own".to_owned(),
        ))
    }

    /// A CUDA kernel that turns weights of this layout into floats, for GPU backends that do not know the layout.
    ///
    /// It is asked once a layout before anything is loaded, and once a weight. [`cuda_kernel`](crate::cuda_kernel) says
    /// how a kernel is called.
    ///
    /// # Errors
    /// Whatever keeps the scheme from making its source. The default has none: `None`.
    fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        let _ = layout;
        Ok(None)
    }

    /// Scratch bytes that [`matmul`](Self::matmul) may hold besides the buffers.
    fn workspace_bytes(&self, layout: &Layout) -> u64 {
        let _ = layout;
        0
    }
}
