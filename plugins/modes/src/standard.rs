//! `standard`: the weights as they are.

use qbench_sdk::{
    CallContext, DType, Layout, Matrix, Options, QuantScheme, Result, SchemeInfo, layout::Dense,
};

use crate::storage;

/// Stores a matrix unchanged, in its own type.
#[derive(Clone, Copy, Debug)]
pub struct Standard;

impl Standard {
    /// Opens the scheme, which has no options.
    ///
    /// # Errors
    /// [`InvalidArgument`](qbench_sdk::Error::InvalidArgument) for any option.
    pub fn open(options: &Options) -> Result<Self> {
        options.finish(&[]).map(|()| Self)
    }
}

impl QuantScheme for Standard {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "standard".to_owned(),
            summary: "the weights as they are".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        let layout = Layout::Dense(Dense {
            rows,
            cols,
            dtype: source,
        });
        layout.validate()?;
        Ok(layout)
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        layout: &Layout,
        buffers: &mut [&mut [u8]],
        _context: CallContext,
    ) -> Result<()> {
        let [weight] = storage::buffers(self, &source, layout, buffers)?;
        let row_bytes = source.cols() * source.dtype().size();
        // A matrix without columns has no bytes, but chunks must not be empty.
        for (row, stored) in weight.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            stored.copy_from_slice(source.row(row));
        }
        Ok(())
    }
}
