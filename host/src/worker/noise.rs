//! The noise floor's weights: those of the reference, each off by what rounding to bf16 could change.

use qbench_sdk::{
    CallContext, DType, Error, Layout, Matrix, QuantScheme, Result, SchemeInfo, layout::Dense, widen,
};

use crate::splitmix;

/// Unit roundoff of bf16, which has 8 significant bits: rounding to nearest changes a number by this share at most.
const HALF_STEP: f64 = 1.0 / 512.0;

/// Stores `w·(1 + e)` in f32, rounded once, with e uniform in ±2⁻⁹, drawn from the seed and the weight's own values, for
/// the weights that modes quantise. It is what any rounding to bf16 may do to a model that is otherwise computed in f32:
/// a mode whose KL is not above this row's does no more than that.
pub(super) struct Bf16Noise {
    pub(super) seed: u64,
}

impl QuantScheme for Bf16Noise {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "bf16noise".to_owned(),
            summary: "the weights, each off by up to half a step of bf16".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, _source: DType) -> Result<Layout> {
        let layout = Layout::Dense(Dense {
            rows,
            cols,
            dtype: DType::F32,
        });
        layout.validate()?;
        Ok(layout)
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _layout: &Layout,
        buffers: &mut [&mut [u8]],
        _context: CallContext,
    ) -> Result<()> {
        let [buffer] = buffers else {
            return Err(Error::InvalidArgument("a dense layout has one buffer".to_owned()));
        };
        let mut row = vec![0.0_f32; source.cols()];
        let mut seed = self.seed;
        let mut position = 0;
        for (index, stored) in buffer
            .chunks_exact_mut((source.cols() * size_of::<f32>()).max(1))
            .enumerate()
        {
            widen(source.row(index), source.dtype(), &mut row)?;
            if index == 0 {
                // Two weights of one shape get noise of their own.
                seed = row
                    .iter()
                    .fold(seed, |seed, value| splitmix::at(seed, u64::from(value.to_bits())));
            }
            for (value, bytes) in row.iter().zip(stored.chunks_exact_mut(size_of::<f32>())) {
                bytes.copy_from_slice(&perturbed(*value, splitmix::at(seed, position)).to_le_bytes());
                position += 1;
            }
        }
        Ok(())
    }
}

fn perturbed(value: f32, random: u64) -> f32 {
    // 53 bits give a uniform number in 0..1.
    let uniform = (random >> 11) as f64 / (1_u64 << 53) as f64;
    (f64::from(value) * (1.0 + HALF_STEP * (2.0 * uniform - 1.0))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_stays_within_half_a_step_and_has_no_bias() {
        const DRAWS: u64 = 100_000;
        let relative = |draw| f64::from(perturbed(1.5, splitmix::at(9, draw))) / 1.5 - 1.0;
        let values: Vec<f64> = (0..DRAWS).map(relative).collect();
        // One rounding of f32 besides.
        assert!(values.iter().all(|value| value.abs() <= HALF_STEP + 1e-7));
        assert!(values.iter().any(|value| value.abs() > 0.99 * HALF_STEP));
        let mean = values.iter().sum::<f64>() / DRAWS as f64;
        // The standard error is 2⁻⁹ / √3 / √DRAWS = 3.6e-6.
        assert!(mean.abs() < 2e-5, "{mean}");
    }
}
