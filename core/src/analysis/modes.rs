//! The order of modes in tables and figures, and rows grouped by mode.

use crate::results::BenchmarkRow;

/// The mode that others are compared with.
pub const STANDARD: &str = "standard";

/// The known modes in their order; others follow alphabetically.
const KNOWN: [&str; 5] = ["4bit_fp4", "4bit_nf4", "4bit_nf4_double", "8bit", STANDARD];

/// Sorts names of modes into the order of tables and figures, each once.
pub fn ordered_modes<'a>(modes: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut modes: Vec<&str> = modes.into_iter().collect();
    modes.sort_by_key(|&mode| {
        let place = KNOWN
            .iter()
            .position(|&known| known == mode)
            .unwrap_or(KNOWN.len());
        (place, mode)
    });
    modes.dedup();
    modes
}

/// The rows of one mode.
#[derive(Debug)]
pub struct ModeRows<'a> {
    /// The mode.
    pub mode: &'a str,
    /// Its rows, in the order of the files.
    pub rows: Vec<&'a BenchmarkRow>,
}

impl ModeRows<'_> {
    /// The values of one column, unmeasured ones left out.
    pub fn values(&self, column: impl Fn(&BenchmarkRow) -> Option<f64>) -> Vec<f64> {
        self.rows.iter().filter_map(|row| column(row)).collect()
    }
}

/// Groups the rows that have numbers by mode, in the order of modes.
pub fn group_by_mode(rows: &[BenchmarkRow]) -> Vec<ModeRows<'_>> {
    let ok: Vec<&BenchmarkRow> = rows.iter().filter(|row| row.is_ok()).collect();
    ordered_modes(ok.iter().map(|row| row.quantization.as_str()))
        .into_iter()
        .map(|mode| {
            let rows = ok
                .iter()
                .copied()
                .filter(|row| row.quantization == mode)
                .collect();
            ModeRows { mode, rows }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_modes_come_first_and_unknown_ones_alphabetically() {
        let modes = [
            "zeta",
            "standard",
            "8bit",
            "4bit_nf4_double",
            "alpha",
            "4bit_fp4",
            "4bit_nf4",
            "8bit",
        ];
        let expected = [
            "4bit_fp4",
            "4bit_nf4",
            "4bit_nf4_double",
            "8bit",
            "standard",
            "alpha",
            "zeta",
        ];
        assert_eq!(ordered_modes(modes), expected);
    }
}
