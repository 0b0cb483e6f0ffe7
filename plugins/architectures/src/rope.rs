//! Rotary position embeddings: the tables. Su et al. 2021, with the halves of a head paired as in transformers.

/// Cosines and sines of consecutive positions, f32.
///
/// Element `[p, i]` belongs to the angle `p · theta^(-2i / head_dim)`, computed in f32 as transformers does: exponent,
/// frequency and angle are each rounded, so that a table agrees with theirs to the last bits at any position.
#[derive(Debug)]
pub(crate) struct RopeTable {
    frequencies: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    pub(crate) fn new(theta: f64, head_dim: usize) -> Self {
        let frequencies = (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / (theta.powf(f64::from(exponent)) as f32)
            })
            .collect();
        Self {
            frequencies,
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    /// Bytes of the tables, with the room that they have to grow.
    pub(crate) fn bytes(&self) -> u64 {
        let values = self.frequencies.capacity() + self.cos.capacity() + self.sin.capacity();
        (values * size_of::<f32>()) as u64
    }

    /// Cosines and sines of the positions `first .. first + count`, each `[count, head_dim / 2]`.
    pub(crate) fn rows(&mut self, first: usize, count: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        for position in self.cos.len() / half..first + count {
            for &frequency in &self.frequencies {
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(angle.cos() as f32);
                self.sin.push(angle.sin() as f32);
            }
        }
        let range = first * half..(first + count) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_positions_times_frequencies() {
        // theta 10000, head_dim 4: frequencies 1 and 10000^-0.5 = 0.01.
        let mut table = RopeTable::new(10_000.0, 4);
        let (cos, sin) = table.rows(2, 2);
        let expected = [2.0_f64, 0.02, 3.0, 0.03];
        for (i, angle) in expected.iter().enumerate() {
            // One f32 rounding of an angle below 4, and one of its cosine.
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 5e-7);
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 5e-7);
        }
        let (again, _) = table.rows(0, 1);
        assert_eq!(again, [1.0, 1.0]);
    }
}
