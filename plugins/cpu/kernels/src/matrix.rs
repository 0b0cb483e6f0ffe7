//! Views of matrices of f32 or f64 and their product.

use std::{fmt, marker::PhantomData, ops::Range};

/// A borrowed matrix with any strides.
#[derive(Clone, Copy)]
pub struct View<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// A matrix at the start of `data` whose rows begin `stride` elements apart.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            rows == 0 || (cols <= stride && (rows - 1) * stride + cols <= data.len()),
            "a {rows} x {cols} matrix with stride {stride} in {} elements",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from the start of a row to that of the next.
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Row `index` of a matrix that is not transposed.
    pub(crate) fn row(&self, index: usize) -> &'a [T] {
        assert!(
            index < self.rows && self.col_stride == 1,
            "row {index} of {}",
            self.rows
        );
        &self.data[index * self.row_stride..][..self.cols]
    }

    /// The transposed matrix.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

impl<T> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}

/// A row-major matrix of which several tasks write different blocks at once.
pub struct SharedMatrix<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are reached through `block` alone, whose contract forbids that two tasks reach the same.
unsafe impl<T: Send> Sync for SharedMatrix<'_, T> {}

impl<'a, T> SharedMatrix<'a, T> {
    /// All of `data` as rows of `cols` elements.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        Self {
            data: data.as_mut_ptr(),
            rows,
            cols,
            borrow: PhantomData,
        }
    }

    /// A block to be written.
    ///
    /// # Panics
    /// When the block does not lie in the matrix.
    ///
    /// # Safety
    /// While the block lives, no other block of this matrix that shares an element with it may live.
    pub unsafe fn block(&self, rows: Range<usize>, cols: Range<usize>) -> Block<'_, T> {
        assert!(
            rows.start <= rows.end
                && rows.end <= self.rows
                && cols.start <= cols.end
                && cols.end <= self.cols,
            "rows {rows:?} and columns {cols:?} of a {} x {} matrix",
            self.rows,
            self.cols
        );
        Block {
            // The offset of an empty block may lie one row past the end; `wrapping_add` allows that.
            data: self.data.wrapping_add(rows.start * self.cols + cols.start),
            rows: rows.len(),
            cols: cols.len(),
            stride: self.cols,
            borrow: PhantomData,
        }
    }
}

/// Exclusive access to a block of a row-major matrix.
pub struct Block<'a, T = f32> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T> Block<'a, T> {
    /// All of `data` as rows of `cols` elements.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} block");
        Self {
            data: data.as_mut_ptr(),
            rows,
            cols,
            stride: cols,
            borrow: PhantomData,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Where the element at `row`, `col` lies, and the distance of rows in elements.
    pub(crate) fn corner(&mut self, row: usize, col: usize) -> (*mut T, usize) {
        assert!(
            row < self.rows && col < self.cols,
            "({row}, {col}) of {} x {}",
            self.rows,
            self.cols
        );
        (self.data.wrapping_add(row * self.stride + col), self.stride)
    }

    /// Row `index`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&mut self, index: usize) -> &mut [T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the row lies in the matrix (checked when the block was made), and the block is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.stride), self.cols) }
    }
}

/// What becomes of the values that were there.
#[derive(Clone, Copy, PartialEq)]
pub enum Onto {
    /// They are lost.
    Overwrite,
    /// They are added to.
    Add,
}

/// A type that products are computed in.
pub trait Real: Copy + 'static {
    /// One.
    const ONE: Self;
}

impl Real for f32 {
    const ONE: Self = 1.0;
}

impl Real for f64 {
    const ONE: Self = 1.0;
}

/// `out = scale · a · b`, or that added to `out`, on the calling thread, accumulated in the elements' own type.
///
/// # Panics
/// When the shapes do not fit.
pub fn multiply<T: Real>(a: View<'_, T>, b: View<'_, T>, scale: T, onto: Onto, out: &mut Block<'_, T>) {
    assert!(
        a.cols == b.rows && a.rows == out.rows && b.cols == out.cols,
        "{} x {} times {} x {} into {} x {}",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        out.rows,
        out.cols
    );
    // SAFETY: `View` and `Block` checked that all elements of their shapes lie in memory that they borrow; `out` is
    // borrowed exclusively, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data,
            1,
            out.stride as isize,
            onto == Onto::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_strided_products_land_where_they_belong() {
        // [1 2; 3 4] times the transpose of [5 6; 7 8], into the right half of a 2 x 4 matrix of ones.
        let a = [1.0, 2.0, 0.0, 3.0, 4.0];
        let b = [5.0, 6.0, 7.0, 8.0];
        let mut out = vec![1.0; 8];
        let shared = SharedMatrix::new(&mut out, 2, 4);
        // SAFETY: the only block.
        let mut block = unsafe { shared.block(0..2, 2..4) };
        let a = View::new(&a, 2, 2, 3);
        let b = View::new(&b, 2, 2, 2).transposed();
        multiply(a, b, 2.0, Onto::Overwrite, &mut block);
        multiply(a, b, 1.0, Onto::Add, &mut block);
        assert_eq!(block.row(0), [51.0, 69.0]);
        assert_eq!(out, [1.0, 1.0, 51.0, 69.0, 1.0, 1.0, 117.0, 159.0]);
    }

    #[test]
    #[should_panic(expected = "stride 3 in 4 elements")]
    fn a_view_past_the_end_is_refused() {
        let _ = View::new(&[0.0; 4], 2, 2, 3);
    }
}
