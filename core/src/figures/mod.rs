//! Figures of an analysis, as PNG files fit for print: 1400 to 2600 pixels across, one colour a mode throughout.

mod canvas;
mod chart;
pub(crate) mod evaluations;
mod page;
mod palette;
mod panel;
mod performance;
mod quality;
mod scale;
mod text;
mod tradeoff;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::analysis::{Inputs, QualityRows, group_by_mode, ordered_modes};
use page::Modes;

/// A figure that cannot be drawn or saved.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw {}: {message}", path.display())]
pub struct FigureError {
    /// The figure.
    pub path: PathBuf,
    /// What went wrong.
    pub message: String,
}

/// Draws every figure for which `inputs` has numbers into `directory` and returns their paths.
///
/// # Errors
/// [`FigureError`] when a file cannot be written; figures drawn before it stay, none is half-written.
pub fn draw(inputs: &Inputs, directory: &Path) -> Result<Vec<PathBuf>, FigureError> {
    let groups = group_by_mode(&inputs.rows);
    let quality = QualityRows::new(&inputs.quality);
    let evaluated = inputs
        .evaluation_records
        .iter()
        .map(|record| record.cell.mode.as_str());
    let names = ordered_modes(
        groups
            .iter()
            .map(|group| group.mode)
            .chain(quality.modes())
            .chain(evaluated),
    );
    let modes = Modes {
        colours: palette::colours(&names),
        names,
    };
    let mut files = performance::draw(inputs, &groups, &modes, directory)?;
    files.extend(quality::draw(&inputs.quality, &quality, &modes, directory)?);
    files.extend(evaluations::draw(inputs, &groups, &modes, directory)?);
    Ok(files)
}

/// The setting of all rows in a line: a value where they agree, `3 models` where they do not.
fn describe<'a, const N: usize>(settings: impl Iterator<Item = [(&'static str, &'a str); N]>) -> Vec<String> {
    let mut values = [(); N].map(|()| ("", BTreeSet::new()));
    for setting in settings {
        for (place, (column, value)) in values.iter_mut().zip(setting) {
            place.0 = column;
            if !value.is_empty() {
                place.1.insert(value);
            }
        }
    }
    let mut parts: Vec<String> = values
        .iter()
        .filter_map(|(column, values)| match values.len() {
            0 => None,
            1 => values.first().map(|&value| value.to_owned()),
            several => Some(format!("{several} {column}s")),
        })
        .collect();
    // A backend and its device may have one name.
    parts.dedup();
    parts
}
