//! The cells that have no numbers, or none to be believed, and why.

use super::format::bullets;
use crate::analysis::Inputs;
use crate::results::Status;

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
    let evaluations = inputs
        .evaluation_records
        .iter()
        .filter(|record| record.status != Status::Ok);
    let evaluations = evaluations.map(|record| {
        let cell = &record.cell;
        let part = if cell.part.is_empty() {
            String::new()
        } else {
            format!(" in {}", cell.part)
        };
        format!(
            "{} of {}{part} ({}, {}, {}, {}, {}): {}: {}",
            cell.kind.as_str(),
            cell.mode,
            cell.model,
            cell.backend,
            cell.device,
            cell.precision,
            cell.condition,
            record.status.as_str(),
            record.reason
        )
    });
    let mut lines: Vec<String> = performance.chain(quality).chain(evaluations).collect();
    // A failed quality cell has a row for each layer.
    lines.dedup();
    bullets(lines.iter().map(String::as_str))
}
