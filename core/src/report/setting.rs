//! What was measured, on what and how often.

use std::path::Path;

use super::format::distinct;
use crate::analysis::Inputs;
use crate::results::BenchmarkRow;

/// A heading with a column of text.
type TextColumn = (&'static str, fn(&BenchmarkRow) -> &str);
/// A heading with a column of counts.
type CountColumn = (&'static str, fn(&BenchmarkRow) -> Option<u64>);

pub(super) fn setting(inputs: &Inputs, results_dir: &Path) -> String {
    let mut table = Vec::new();
    table.push(("results", results_dir.display().to_string()));
    let sources = inputs
        .sources
        .iter()
        .map(|path| path.strip_prefix(results_dir).unwrap_or(path));
    table.push((
        "files read",
        sources
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    ));
    let columns: [TextColumn; 11] = [
        ("model", |row| &row.model),
        ("backend", |row| &row.backend),
        ("library", |row| &row.torch),
        ("device", |row| &row.device),
        ("device name", |row| {
            if row.device_name.is_empty() {
                &row.gpu_name
            } else {
                &row.device_name
            }
        }),
        ("driver", |row| &row.driver),
        ("CUDA", |row| &row.cuda),
        ("precision", |row| &row.precision),
        ("condition", |row| &row.condition),
        ("workload", BenchmarkRow::workload),
        ("memory counted by", |row| &row.memory_measured_by),
    ];
    for (name, value) in columns {
        let values = distinct(inputs.rows.iter().map(value).filter(|value| !value.is_empty()));
        table.push((name, values.join(", ")));
    }
    let counts: [CountColumn; 5] = [
        ("batch sizes", |row| row.batch_size),
        ("timed batches", |row| row.runs),
        ("warm-up batches", |row| row.warmup),
        ("sequences cut", |row| row.truncated_seqs),
        ("threads", |row| row.threads),
    ];
    for (name, value) in counts {
        let values = distinct(inputs.rows.iter().filter_map(value));
        table.push((
            name,
            values.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        ));
    }
    let ok = inputs.rows.iter().filter(|row| row.is_ok()).count();
    table.push((
        "rows",
        format!("{} measured, {} failed or invalid", ok, inputs.rows.len() - ok),
    ));
    table.retain(|(_, value)| !value.is_empty());
    let lines: Vec<String> = table
        .iter()
        .map(|(name, value)| format!("  {name:<18} {value}\n"))
        .collect();
    lines.concat()
}
