//! Four rows of a cache.

use super::vector::Vector;
use crate::matrix::View;

/// Rows that are taken at a time: so many independent sums.
pub(super) const ROWS: usize = 4;

/// Rows of a view, the last of which is there again for each that the view lacks.
pub(super) struct Rows<'a> {
    rows: [&'a [f32]; ROWS],
    /// Elements to the same row of the next view.
    ahead: usize,
}

impl<'a> Rows<'a> {
    /// The rows of the view from `first` on.
    #[inline(always)]
    pub(super) fn new(view: View<'a>, first: usize) -> Self {
        let mut rows = [view.row(first); ROWS];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = view.row((first + index).min(view.rows() - 1));
        }
        Self {
            rows,
            ahead: view.rows() * view.row_stride(),
        }
    }

    /// Elements of a row.
    #[inline(always)]
    pub(super) fn width(&self) -> usize {
        self.rows[0].len()
    }

    /// Columns of each row from `at` on, while those of the next view are fetched: not all at once, as a processor waits
    /// for few things at a time.
    ///
    /// # Safety
    /// The processor has the vector's instructions; so many columns are there.
    #[inline(always)]
    pub(super) unsafe fn load<V: Vector>(&self, at: usize, lanes: usize) -> [V; ROWS] {
        // SAFETY: the caller's.
        unsafe {
            let mut vectors = [V::splat(0.0); ROWS];
            for (vector, row) in vectors.iter_mut().zip(self.rows) {
                V::fetch(row.as_ptr().wrapping_add(self.ahead + at));
                *vector = V::load(row.as_ptr().add(at), lanes);
            }
            vectors
        }
    }
}
