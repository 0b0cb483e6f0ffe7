//! Random values, tolerances, and weights in memory.

use std::collections::BTreeMap;

use crate::Kernels;
use qbench_cpu_kernels::InstructionSet;
use qbench_sdk::{
    AlignedBuffer, CallContext, DType, Error, Layout, Matrix, MatrixMut, Result, StoredTensor, Weights,
    layout::{self, Dense},
    narrow, widen,
};

/// A reproducible generator (SplitMix64; Steele et al. 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal values (Box and Muller 1958).
    pub(crate) fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
                (deviation * radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
            })
            .collect()
    }
}

/// The reference, and the kernels of every instruction set that this processor has.
pub(crate) fn all_kernels() -> Vec<Kernels> {
    let sets = InstructionSet::ALL.into_iter().filter(|set| set.is_available());
    std::iter::once(Kernels::Reference)
        .chain(sets.map(Kernels::Own))
        .collect()
}

/// Fails when a value is farther from the truth than `tolerance`.
pub(crate) fn assert_close(values: &[f32], truth: &[f64], tolerance: f64, what: &str) {
    assert_eq!(values.len(), truth.len(), "{what}");
    for (index, (value, truth)) in values.iter().zip(truth).enumerate() {
        let error = (f64::from(*value) - truth).abs();
        assert!(
            error <= tolerance,
            "{what}, element {index}: {value} is not {truth}"
        );
    }
}

/// A weight in memory; it may have a product of its own, or a layout of its own.
pub(crate) struct MemoryTensor {
    pub(crate) layout: Layout,
    pub(crate) buffers: Vec<AlignedBuffer>,
    /// Floats behind a custom layout, and whether `matmul` works on them.
    pub(crate) custom: Option<(Vec<f32>, bool)>,
}

impl MemoryTensor {
    pub(crate) fn dense(rows: usize, cols: usize, dtype: DType, values: &[f32]) -> Self {
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(values, dtype, &mut bytes).unwrap();
        Self {
            layout: Layout::Dense(Dense { rows, cols, dtype }),
            buffers: vec![AlignedBuffer::from_bytes(&bytes)],
            custom: None,
        }
    }

    /// A layout's buffers, each filled with random bytes or floats of its type.
    pub(crate) fn random(layout: Layout, random: &mut Random) -> Self {
        let buffers = layout
            .buffers()
            .iter()
            .map(|spec| {
                let bytes: Vec<u8> = match spec.dtype {
                    DType::F32 => random
                        .normal(spec.bytes / 4, 0.1)
                        .iter()
                        .flat_map(|value| value.to_le_bytes())
                        .collect(),
                    // -128 is no code.
                    DType::I8 => (0..spec.bytes)
                        .map(|_| ((random.next() % 255) as i8).wrapping_sub(127) as u8)
                        .collect(),
                    _ => (0..spec.bytes).map(|_| random.next() as u8).collect(),
                };
                AlignedBuffer::from_bytes(&bytes)
            })
            .collect();
        Self {
            layout,
            buffers,
            custom: None,
        }
    }

    /// The reference decoder's floats.
    pub(crate) fn decoded(&self, precision: DType) -> Vec<f32> {
        let (rows, cols) = (self.layout.rows(), self.layout.cols());
        let mut bytes = vec![0; rows * cols * precision.size()];
        self.dequantize(
            0,
            &mut MatrixMut::new(&mut bytes, rows, cols, precision).unwrap(),
            CallContext::single_threaded(),
        )
        .unwrap();
        let mut values = vec![0.0; rows * cols];
        widen(&bytes, precision, &mut values).unwrap();
        values
    }

    pub(crate) fn boxed(&self) -> Box<dyn StoredTensor> {
        Box::new(Self {
            layout: self.layout.clone(),
            buffers: self
                .buffers
                .iter()
                .map(|buffer| AlignedBuffer::from_bytes(buffer))
                .collect(),
            custom: self.custom.clone(),
        })
    }
}

impl StoredTensor for MemoryTensor {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _context: CallContext) -> Result<()> {
        match &self.custom {
            None => layout::decode(&self.layout, &self.buffers(), first_row, out),
            Some((values, _)) => {
                let cols = self.layout.cols();
                (0..out.rows()).try_for_each(|row| {
                    let start = (first_row + row) * cols;
                    out.write_row(row, &values[start..start + cols])
                })
            }
        }
    }

    fn matmul(&self, input: Matrix<'_>, output: &mut MatrixMut<'_>, _context: CallContext) -> Result<()> {
        let Some((values, true)) = &self.custom else {
            return Err(Error::Unsupported("a product".to_owned()));
        };
        let mut x = vec![0.0; input.cols()];
        for token in 0..input.rows() {
            input.read_row(token, &mut x)?;
            let row: Vec<f32> = values
                .chunks_exact(x.len())
                .map(|weights| weights.iter().zip(&x).map(|(w, x)| w * x).sum())
                .collect();
            output.write_row(token, &row)?;
        }
        Ok(())
    }
}

/// Weights in memory, by name.
#[derive(Default)]
pub(crate) struct MemoryWeights(pub(crate) BTreeMap<String, MemoryTensor>);

impl Weights for MemoryWeights {
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        match self.0.get(name) {
            Some(tensor) => Ok(tensor.boxed()),
            None => Err(Error::NotFound(format!("tensor `{name}` in memory"))),
        }
    }
}
