//! Exact quantiles of more values than memory holds.
//!
//! Values go to an unnamed file once they are many. A quantile needs the values at two ranks; these are found by radix
//! selection: in each of four passes over the file, the next 16 bits of every rank's value are read off a histogram of
//! the values that agree in the bits known so far. Memory is that of the histograms, however many values there are, and
//! the result is that of sorting.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use tempfile::SpooledTempFile;

/// Bytes that are kept in memory before they go to a file: a million values.
const IN_MEMORY: usize = 8 << 20;
/// Bits that a pass determines.
const DIGIT_BITS: u32 = 16;
const DIGITS: usize = 1 << DIGIT_BITS;
const PASSES: u32 = u64::BITS / DIGIT_BITS;
/// Bytes that are read and written at a time.
const BUFFER: usize = 1 << 20;

/// Values to take quantiles of, in memory or in a file.
#[derive(Debug)]
pub struct StreamedValues {
    file: BufWriter<SpooledTempFile>,
    count: u64,
}

impl StreamedValues {
    /// Nothing yet. `directory` is where the unnamed file is made, should it be needed.
    pub fn new(directory: &Path) -> Self {
        Self {
            file: BufWriter::new(tempfile::spooled_tempfile_in(IN_MEMORY, directory)),
            count: 0,
        }
    }

    /// Adds a value.
    ///
    /// # Errors
    /// The disk's.
    pub fn push(&mut self, value: f64) -> io::Result<()> {
        self.count += 1;
        self.file.write_all(&value.to_le_bytes())
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Every value, in the order in which they were added.
    ///
    /// # Errors
    /// The disk's.
    pub fn for_each(&mut self, mut use_value: impl FnMut(f64)) -> io::Result<()> {
        for_each_key(self.written()?, |key| use_value(value_of(key)))
    }

    /// The file, with everything that was added.
    fn written(&mut self) -> io::Result<&mut SpooledTempFile> {
        self.file.flush()?;
        Ok(self.file.get_mut())
    }

    /// The quantiles at `probabilities` (each from 0 to 1) by linear interpolation between order statistics, numpy's
    /// default; NaN of nothing.
    ///
    /// # Errors
    /// The disk's.
    pub fn quantiles(&mut self, probabilities: &[f64]) -> io::Result<Vec<f64>> {
        let Some(last) = self.count.checked_sub(1) else {
            return Ok(vec![f64::NAN; probabilities.len()]);
        };
        let mut ranks = BTreeMap::new();
        for probability in probabilities {
            let below = (probability * last as f64).floor() as u64;
            ranks.insert(below, 0.0);
            ranks.insert((below + 1).min(last), 0.0);
        }
        let wanted: Vec<u64> = ranks.keys().copied().collect();
        for (value, found) in ranks.values_mut().zip(select(self.written()?, &wanted)?) {
            *value = found;
        }
        let at = |probability: &f64| {
            let position = probability * last as f64;
            let below = position.floor() as u64;
            super::interpolate(ranks[&below], ranks[&(below + 1).min(last)], position.fract())
        };
        Ok(probabilities.iter().map(at).collect())
    }
}

/// A rank on its way to its value.
struct Search {
    /// Number of values below it among those that share its known bits.
    rank: u64,
    /// The bits known so far.
    prefix: u64,
}

/// The values at `ranks`, counted from 0 in ascending order.
fn select(file: &mut SpooledTempFile, ranks: &[u64]) -> io::Result<Vec<f64>> {
    let mut searches: Vec<Search> = ranks.iter().map(|&rank| Search { rank, prefix: 0 }).collect();
    for pass in 0..PASSES {
        // Searches of ascending ranks have ascending prefixes.
        let mut prefixes: Vec<u64> = searches.iter().map(|search| search.prefix).collect();
        prefixes.dedup();
        let mut histograms = vec![0_u64; prefixes.len() * DIGITS];
        for_each_key(file, |key| {
            // The bits known so far, then the digit of this pass.
            let known = key >> (u64::BITS - (pass + 1) * DIGIT_BITS);
            if let Ok(group) = prefixes.binary_search(&(known >> DIGIT_BITS)) {
                histograms[group * DIGITS + (known as usize & (DIGITS - 1))] += 1;
            }
        })?;
        for search in &mut searches {
            let group = prefixes.partition_point(|&prefix| prefix < search.prefix);
            let histogram = &histograms[group * DIGITS..][..DIGITS];
            let mut digit = 0;
            while search.rank >= histogram[digit] {
                search.rank -= histogram[digit];
                digit += 1;
            }
            search.prefix = search.prefix << DIGIT_BITS | digit as u64;
        }
    }
    Ok(searches.iter().map(|search| value_of(search.prefix)).collect())
}

fn for_each_key(file: &mut SpooledTempFile, mut use_key: impl FnMut(u64)) -> io::Result<()> {
    file.rewind()?;
    let mut reader = BufReader::with_capacity(BUFFER, file);
    let mut bytes = [0; 8];
    loop {
        match reader.read_exact(&mut bytes) {
            Ok(()) => use_key(key_of(f64::from_le_bytes(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

const SIGN: u64 = 1 << 63;

/// Bits that are ordered as `f64::total_cmp` orders values.
fn key_of(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn value_of(key: u64) -> f64 {
    f64::from_bits(if key & SIGN == 0 { !key } else { key ^ SIGN })
}

#[cfg(test)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus as Generator;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::statistics::quantile;

    const PROBABILITIES: [f64; 7] = [0.0, 0.001, 0.05, 0.5, 0.95, 0.999, 1.0];

    fn check(values: &[f64]) {
        let directory = tempfile::tempdir().unwrap();
        let mut streamed = StreamedValues::new(directory.path());
        for &value in values {
            streamed.push(value).unwrap();
        }
        let found = streamed.quantiles(&PROBABILITIES).unwrap();
        let mut again = Vec::new();
        streamed.for_each(|value| again.push(value)).unwrap();
        assert_eq!(again, values);
        let sorted = PROBABILITIES.map(|probability| quantile(values, probability).unwrap());
        assert_eq!(found, sorted);
    }

    #[test]
    fn quantiles_are_those_of_sorting() {
        check(&[7.5]);
        check(&[-0.0, 0.0, -3.0, 1e-310, f64::MAX, -1e-300, 2.0, 2.0]);
        let mut generator = Generator::seed_from_u64(3);
        let values: Vec<f64> = (0..20_000)
            .map(|_| (generator.random::<f64>() - 0.5).powi(9))
            .collect();
        check(&values);
    }

    #[test]
    fn many_values_go_to_a_file() {
        let mut generator = Generator::seed_from_u64(4);
        let values: Vec<f64> = (0..IN_MEMORY / 8 + 1000).map(|_| generator.random()).collect();
        check(&values);
    }

    #[test]
    fn nothing_has_no_quantiles() {
        let mut nothing = StreamedValues::new(Path::new("/nonexistent"));
        assert!(nothing.quantiles(&[0.5]).unwrap()[0].is_nan());
    }
}
