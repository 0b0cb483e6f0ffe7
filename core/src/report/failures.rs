//! The cells that have no numbers, or none to be believed, and why.

use super::format::bullets;
use crate::analysis::Inputs;

pub(super) fn failures(inputs: &Inputs) -> String {
    let performance = inputs.rows.iter().filter(|row| !row.is_ok()).map(|row| {
        let batch_size = row
            .batch_size
            .map_or_else(|| "-".to_owned(), |size| size.to_string());
        let repeat = row
            .repeat
            .map_or_else(|| "-".to_owned(), |repeat| repeat.to_string());
        format!(
            "{} ({}, {}, {}, {}, {}, batch {batch_size}, repeat {repeat}): {}: {}",
            row.quantization,
            row.model,
            row.backend,
            row.device,
            row.precision,
            row.condition,
            row.status,
            row.reason
        )
    });
    let quality = inputs.quality.iter().filter(|row| !row.is_ok()).map(|row| {
        format!(
            "quality of {} ({}, {}, {}, {}, {}): {}: {}",
            row.quantization_mode,
            row.model,
            row.backend,
            row.device,
            row.precision,
            row.condition,
            row.status,
            row.reason
        )
    });
    let mut lines: Vec<String> = performance.chain(quality).collect();
    // A failed quality cell has a row for each layer.
    lines.dedup();
    bullets(lines.iter().map(String::as_str))
}
