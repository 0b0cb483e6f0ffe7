//! A scheme behind a C table.

use std::{
    ffi::{CString, c_void},
    ptr,
};

use super::{
    text::{Sink, checked, owned},
    types::{self, Buffer, Call, ConstBuffer, Storage, Text},
};
use crate::{
    CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Options, QuantScheme, Result,
    SchemeInfo, layout,
};

/// An opened scheme of a plugin that is written in C.
pub(super) struct CScheme {
    table: types::Scheme,
    instance: *mut c_void,
    info: SchemeInfo,
}

// SAFETY: the interface says that functions of a scheme may be called from several threads at once; `close` is called
// once, at the end.
unsafe impl Send for CScheme {}
// SAFETY: as above.
unsafe impl Sync for CScheme {}

impl CScheme {
    /// Opens the scheme with options.
    ///
    /// # Safety
    /// The table's functions are those of the interface.
    pub(super) unsafe fn open(table: types::Scheme, info: SchemeInfo, options: &Options) -> Result<Self> {
        let texts = options
            .iter()
            .map(|(key, value)| Ok((owned(key)?, owned(value)?)))
            .collect::<Result<Vec<_>>>()?;
        let given: Vec<types::UserOption> = texts
            .iter()
            .map(|(key, value)| types::UserOption {
                key: key.as_ptr(),
                value: value.as_ptr(),
            })
            .collect();
        let mut instance = ptr::null_mut();
        match table.open {
            // SAFETY: the function is the interface's; its arguments outlive the call.
            Some(open) => checked("open", |error| unsafe {
                open(given.as_ptr(), given.len(), &raw mut instance, error)
            })?,
            None => options.finish(&[])?,
        }
        Ok(Self {
            table,
            instance,
            info,
        })
    }

    /// The layout of such a matrix, and the scratch memory that a product on it may hold.
    fn plan(&self, rows: usize, cols: usize, source: u32) -> Result<(Layout, u64)> {
        let layout = required(self.table.layout, "layout")?;
        let (mut json, mut workspace) = (Sink::default(), 0);
        let text = json.text();
        // SAFETY: the function is the interface's; its arguments outlive the call.
        checked("layout", |error| unsafe {
            layout(
                self.instance,
                rows as u64,
                cols as u64,
                source,
                &raw const text,
                &raw mut workspace,
                error,
            )
        })?;
        let json = json.finish("the layout")?;
        let layout = Layout::from_json(&json)
            .map_err(|error| Error::InvalidArgument(format!("the plugin's layout `{json}`: {error}")))?;
        Ok((layout, workspace))
    }
}

impl Drop for CScheme {
    fn drop(&mut self) {
        if let Some(close) = self.table.close {
            // SAFETY: the instance is this scheme's and is not used afterwards.
            unsafe { close(self.instance) };
        }
    }
}

impl QuantScheme for CScheme {
    fn info(&self) -> SchemeInfo {
        self.info.clone()
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        Ok(self.plan(rows, cols, dtype(source))?.0)
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        let quantize = required(self.table.quantize, "quantize")?;
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        fits(
            layout,
            (source.rows(), source.cols()),
            (layout.rows(), layout.cols()),
        )?;
        let storage = StoredAs::new(layout)?;
        let buffers: Vec<Buffer> = buffers
            .iter_mut()
            .map(|buffer| Buffer {
                data: buffer.as_mut_ptr(),
                bytes: buffer.len() as u64,
            })
            .collect();
        let (storage, source, call) = (storage.table(), matrix(&source), call(context));
        // SAFETY: the function is the interface's; its arguments outlive the call, and the buffers are borrowed
        // mutably meanwhile.
        checked("quantize", |error| unsafe {
            quantize(
                self.instance,
                &raw const storage,
                &raw const source,
                buffers.as_ptr(),
                &raw const call,
                error,
            )
        })
    }

    fn dequantize(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        first_row: usize,
        out: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        let Some(dequantize) = self.table.dequantize else {
            return layout::decode(layout, buffers, first_row, out);
        };
        layout::check_rows(layout, buffers, first_row, out)?;
        let storage = StoredAs::new(layout)?;
        let buffers = const_buffers(buffers);
        let (storage, out, call) = (storage.table(), matrix_mut(out), call(context));
        // SAFETY: as in `quantize`; `out` is borrowed mutably.
        checked("dequantize", |error| unsafe {
            dequantize(
                self.instance,
                &raw const storage,
                buffers.as_ptr(),
                first_row as u64,
                &raw const out,
                &raw const call,
                error,
            )
        })
    }

    fn matmul(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        input: Matrix<'_>,
        output: &mut MatrixMut<'_>,
        context: CallContext,
    ) -> Result<()> {
        let Some(matmul) = self.table.matmul else {
            return Err(Error::Unsupported(
                "a matrix product of the scheme's own".to_owned(),
            ));
        };
        layout.check_buffers(buffers.iter().map(|buffer| buffer.len()))?;
        let tokens = input.rows();
        fits(layout, (tokens, input.cols()), (tokens, layout.cols()))?;
        fits(layout, (output.rows(), output.cols()), (tokens, layout.rows()))?;
        let storage = StoredAs::new(layout)?;
        let buffers = const_buffers(buffers);
        let (storage, input, output, call) =
            (storage.table(), matrix(&input), matrix_mut(output), call(context));
        // SAFETY: as in `quantize`; `output` is borrowed mutably.
        checked("matmul", |error| unsafe {
            matmul(
                self.instance,
                &raw const storage,
                buffers.as_ptr(),
                &raw const input,
                &raw const output,
                &raw const call,
                error,
            )
        })
    }

    fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        let Some(cuda_kernel) = self.table.cuda_kernel else {
            return Ok(None);
        };
        let storage = StoredAs::new(layout)?;
        let storage = storage.table();
        let mut json = Sink::default();
        let text: Text = json.text();
        // SAFETY: the function is the interface's; its arguments outlive the call.
        checked("cuda_kernel", |error| unsafe {
            cuda_kernel(self.instance, &raw const storage, &raw const text, error)
        })?;
        let json = json.finish("the description of the CUDA kernel")?;
        if json.is_empty() {
            return Ok(None);
        }
        let kernel: CudaKernel = serde_json::from_str(&json)
            .map_err(|error| Error::InvalidArgument(format!("the plugin's CUDA kernel: {error}")))?;
        kernel.validate(layout.buffers().len())?;
        Ok(Some(kernel))
    }

    fn workspace_bytes(&self, layout: &Layout) -> u64 {
        // The declaration travels with the layout of the shape; a scheme that cannot plan declares nothing.
        self.plan(layout.rows(), layout.cols(), dtype(DType::F32))
            .map_or(0, |(_, bytes)| bytes)
    }
}

/// A layout as the plugin sees it.
struct StoredAs {
    rows: u64,
    cols: u64,
    json: CString,
    buffers: usize,
}

impl StoredAs {
    fn new(layout: &Layout) -> Result<Self> {
        Ok(Self {
            rows: layout.rows() as u64,
            cols: layout.cols() as u64,
            json: owned(&layout.to_json()?)?,
            buffers: layout.buffers().len(),
        })
    }

    fn table(&self) -> Storage {
        Storage {
            struct_size: size_of::<Storage>(),
            rows: self.rows,
            cols: self.cols,
            layout_json: self.json.as_ptr(),
            buffer_count: self.buffers,
        }
    }
}

/// Refuses a matrix of another shape than `expected`. C functions index what they are given by the shape of the storage.
fn fits(layout: &Layout, found: (usize, usize), expected: (usize, usize)) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "a {} x {} matrix where a weight of {} x {} needs one of {} x {}",
        found.0,
        found.1,
        layout.rows(),
        layout.cols(),
        expected.0,
        expected.1
    )))
}

fn required<F>(function: Option<F>, name: &str) -> Result<F> {
    function
        .ok_or_else(|| Error::InvalidArgument(format!("the scheme's function `{name}` is a null pointer")))
}

fn dtype(dtype: DType) -> u32 {
    u32::from(dtype.to_code().0)
}

fn call(context: CallContext) -> Call {
    Call {
        struct_size: size_of::<Call>(),
        threads: u32::try_from(context.threads).unwrap_or(u32::MAX),
    }
}

fn matrix(matrix: &Matrix<'_>) -> types::Matrix {
    types::Matrix {
        data: matrix.data().as_ptr(),
        bytes: matrix.data().len() as u64,
        rows: matrix.rows() as u64,
        cols: matrix.cols() as u64,
        row_stride: matrix.row_stride() as u64,
        dtype: dtype(matrix.dtype()),
    }
}

fn matrix_mut(matrix: &mut MatrixMut<'_>) -> types::MatrixMut {
    types::MatrixMut {
        rows: matrix.rows() as u64,
        cols: matrix.cols() as u64,
        row_stride: matrix.row_stride() as u64,
        dtype: dtype(matrix.dtype()),
        bytes: matrix.data().len() as u64,
        data: matrix.data().as_mut_ptr(),
    }
}

fn const_buffers(buffers: &[&[u8]]) -> Vec<ConstBuffer> {
    buffers
        .iter()
        .map(|buffer| ConstBuffer {
            data: buffer.as_ptr(),
            bytes: buffer.len() as u64,
        })
        .collect()
}
