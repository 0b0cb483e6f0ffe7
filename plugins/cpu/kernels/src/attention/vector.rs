//! What the kernels need of an instruction set.

/// Several floats, on which an instruction works at once.
pub(super) trait Vector: Copy {
    /// Floats of a vector.
    const LANES: usize;

    /// Queries whose sums of four rows fit the registers, up to 4.
    const QUERIES: usize;

    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn splat(value: f32) -> Self;

    /// Zeros after the first `lanes` floats, or all [`LANES`](Self::LANES).
    ///
    /// # Safety
    /// The processor has the vector's instructions; so many floats are there.
    unsafe fn load(from: *const f32, lanes: usize) -> Self;

    /// # Safety
    /// The processor has the vector's instructions; there is room for so many floats.
    unsafe fn store(self, to: *mut f32, lanes: usize);

    /// `self + a · b`
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;

    /// The sum of each vector's floats.
    ///
    /// # Safety
    /// The processor has the vector's instructions.
    unsafe fn totals(vectors: [Self; 4]) -> [f32; 4];

    /// Begins to bring what lies there, if anything does, closer to the processor.
    fn fetch(from: *const f32);
}

/// What the compiler makes for any processor of the architecture: two vectors of 128 bits on most.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Vector for Portable {
    const LANES: usize = 8;
    const QUERIES: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32, lanes: usize) -> Self {
        let mut all = [0.0; 8];
        // SAFETY: the caller's floats.
        unsafe { all.as_mut_ptr().copy_from_nonoverlapping(from, lanes) };
        Self(all)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, lanes: usize) {
        // SAFETY: the caller's room.
        unsafe { to.copy_from_nonoverlapping(self.0.as_ptr(), lanes) };
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }

    #[inline(always)]
    unsafe fn totals(vectors: [Self; 4]) -> [f32; 4] {
        vectors.map(|Self([a, b, c, d, e, f, g, h])| ((a + e) + (c + g)) + ((b + f) + (d + h)))
    }

    #[inline(always)]
    fn fetch(_: *const f32) {}
}
