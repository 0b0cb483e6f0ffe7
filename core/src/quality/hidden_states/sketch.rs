/// Bits of an f32 that a bucket is known by: the sign, the exponent and ten of the mantissa.
const KEY_BITS: u32 = 19;

/// A count of f32 values in buckets as fine as their leading bits: bounded memory (4 MiB) whatever the number of
/// values, and two of them add up exactly.
///
/// A bucket is 2⁻¹⁰ of its values wide, so that a quantile is off by less than a thousandth of itself; for values below
/// 1e-38 by less than 1.2e-41.
#[derive(Clone, Debug)]
pub(super) struct QuantileSketch {
    counts: Vec<u64>,
    total: u64,
    min: f32,
    max: f32,
}

impl QuantileSketch {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; 1 << KEY_BITS],
            total: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        }
    }

    /// Counts finite values.
    pub(super) fn add(&mut self, values: &[f32]) {
        for &value in values {
            self.counts[bucket(value)] += 1;
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        self.total += values.len() as u64;
    }

    /// Smallest value; NaN without values, as the next two.
    pub(super) fn min(&self) -> f64 {
        self.or_nan(f64::from(self.min))
    }

    /// Largest value.
    pub(super) fn max(&self) -> f64 {
        self.or_nan(f64::from(self.max))
    }

    /// The linear quantile (numpy's default) with `share` from 0 to 1, values taken as spread evenly over their bucket.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let position = share * self.total.saturating_sub(1) as f64;
        let below = position.floor() as u64;
        let (low, high) = (self.ranked(below), self.ranked(below + 1));
        self.or_nan(low + (high - low) * position.fract())
    }

    /// About the value of that rank, from 0; the last beyond the end.
    fn ranked(&self, rank: u64) -> f64 {
        let rank = rank.min(self.total.saturating_sub(1));
        let mut before = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            if rank < before + count {
                let (start, end) = (edge(bucket), edge(bucket + 1));
                let within = ((rank - before) as f64 + 0.5) / count as f64;
                return (start + (end - start) * within).clamp(f64::from(self.min), f64::from(self.max));
            }
            before += count;
        }
        f64::NAN
    }

    fn or_nan(&self, value: f64) -> f64 {
        if self.total > 0 { value } else { f64::NAN }
    }
}

/// Larger values have larger keys: the bits of negative ones are turned over.
fn bucket(value: f32) -> usize {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered >> (32 - KEY_BITS)) as usize
}

/// The smallest value of a bucket.
fn edge(bucket: usize) -> f64 {
    let ordered = (bucket as u32) << (32 - KEY_BITS);
    let bits = if ordered >> 31 == 1 {
        ordered & !(1 << 31)
    } else {
        !ordered
    };
    f64::from(f32::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The width of a bucket, relative to the values in it.
    const RESOLUTION: f64 = 1.0 / 1024.0;

    fn sketch(values: &[f32]) -> QuantileSketch {
        let mut sketch = QuantileSketch::new();
        sketch.add(values);
        sketch
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_exact_ones() {
        // Normal values by the sum of twelve uniform ones, times 1000 for a tenth of them: heavy tails, both signs.
        let mut state = 1_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let values: Vec<f32> = (0..20_001)
            .map(|index| {
                let normal = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
                if index % 10 == 0 { normal * 1000.0 } else { normal }
            })
            .collect();
        let exact: Vec<f64> = values.iter().copied().map(f64::from).collect();
        let sketch = sketch(&values);
        for share in [0.001, 0.01, 0.25, 0.4, 0.75, 0.99, 0.999] {
            let expected = crate::statistics::quantile(&exact, share).unwrap();
            let found = sketch.quantile(share);
            assert!(
                (found - expected).abs() <= RESOLUTION * expected.abs(),
                "{share}: {found} {expected}"
            );
        }
        assert_eq!(
            (sketch.quantile(0.0), sketch.quantile(1.0)),
            (sketch.min(), sketch.max())
        );
    }

    #[test]
    fn one_value_is_all_its_quantiles() {
        for value in [0.0_f32, -0.0, 3.25, -1e-40, f32::MAX, f32::MIN] {
            let sketch = sketch(&[value]);
            for share in [0.0, 0.5, 1.0] {
                assert_eq!(sketch.quantile(share), f64::from(value));
            }
        }
        assert!(QuantileSketch::new().quantile(0.5).is_nan() && QuantileSketch::new().min().is_nan());
    }

    #[test]
    fn buckets_are_in_the_order_of_values() {
        let values = [
            -1e30_f32, -2.0, -1.0, -1e-3, -0.0, 0.0, 1e-45, 0.5, 1.0, 1.001, 7e20,
        ];
        assert!(values.windows(2).all(|pair| bucket(pair[0]) <= bucket(pair[1])));
        assert!(values.iter().all(|&value| {
            let bucket = bucket(value);
            edge(bucket) <= f64::from(value) && f64::from(value) <= edge(bucket + 1)
        }));
    }
}
