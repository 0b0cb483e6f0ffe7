//! Figures of an analysis, as PNG files fit for print: 1400 to 2600 pixels across, one colour a mode throughout.

mod canvas;
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
    let names = ordered_modes(groups.iter().map(|group| group.mode).chain(quality.modes()));
    let modes = Modes {
        colours: palette::colours(&names),
        names,
    };
    let mut files = performance::draw(&inputs.rows, &groups, &modes, directory)?;
    files.extend(quality::draw(&inputs.quality, &quality, &modes, directory)?);
    Ok(files)
}

/// `name value` of one column of the rows, or `3 names` when there are several values; nothing when there is none.
fn constant<'a>(plural: &str, values: impl Iterator<Item = &'a str>) -> Option<String> {
    let values: BTreeSet<&str> = values.filter(|value| !value.is_empty()).collect();
    match values.len() {
        0 => None,
        1 => values.first().map(|&value| value.to_owned()),
        several => Some(format!("{several} {plural}")),
    }
}
