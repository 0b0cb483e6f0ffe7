//! A table of text and numbers, for CSV files and for the report.

use std::path::Path;

use crate::results::{ResultsError, write_atomically};

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Text.
    Text(String),
    /// A number, or none where nothing was measured.
    Number(Option<f64>),
}

/// A named table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The file's name, `quant_summary.csv`.
    pub file_name: &'static str,
    /// Names of the columns.
    pub header: Vec<String>,
    /// The rows, each as long as the header.
    pub rows: Vec<Vec<Field>>,
}

impl Table {
    /// Writes the table into a directory, numbers rounded by [`rounded`].
    ///
    /// # Errors
    /// [`ResultsError::Io`] when the file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), ResultsError> {
        write_atomically(&directory.join(self.file_name), |file| {
            let mut writer = csv::Writer::from_writer(file);
            writer.write_record(&self.header)?;
            for row in &self.rows {
                writer.write_record(row.iter().map(Field::to_text))?;
            }
            writer.flush()
        })
    }
}

impl Field {
    /// The text in a CSV file.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value) => value.map_or_else(String::new, |value| rounded(value).to_string()),
        }
    }
}

/// Rounds to 3 decimals, or to 4 significant digits where that is finer.
///
/// The original system rounded to 3 decimals throughout, which leaves nothing of the 0.0253 GB of a small model.
pub fn rounded(value: f64) -> f64 {
    /// Decimals of a double that can still matter; more only spell out its binary form.
    const MOST_DECIMALS: i32 = 300;
    if value == 0.0 || !value.is_finite() {
        // Adding 0 takes the sign off a negative zero.
        return value + 0.0;
    }
    let leading = value.abs().log10().floor() as i32;
    let decimals = (3 - leading).clamp(3, MOST_DECIMALS) as usize;
    // Through text, which rounds the exact binary value and gives the nearest double to the decimal result.
    format!("{value:.decimals$}")
        .parse::<f64>()
        .map_or(value, |rounded| rounded + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_decimals_or_four_digits() {
        let cases = [
            (1_234.567_89, 1_234.568),
            (1.000_49, 1.0),
            (0.025_347_8, 0.025_35),
            (-0.000_123_456_7, -0.000_123_5),
            (-0.0, 0.0),
            (1e-12, 1e-12),
            (f64::INFINITY, f64::INFINITY),
        ];
        for (value, expected) in cases {
            assert_eq!(rounded(value).to_bits(), f64::to_bits(expected), "{value}");
        }
    }

    #[test]
    fn unmeasured_is_an_empty_field() {
        assert_eq!(Field::Number(None).to_text(), "");
        assert_eq!(Field::Number(Some(0.025_347_8)).to_text(), "0.02535");
        assert_eq!(Field::Number(Some(f64::INFINITY)).to_text(), "inf");
    }
}
