//! Tables, figures and the report of a results directory.
//!
//! [`analyze`] reads the directory once into [`Inputs`] and hands data, never paths, to what makes tables, figures
//! and text. It needs no plugin and reads the original Python system's directories too.

mod inputs;
mod memory_table;
mod mixture;
mod modes;
mod number_text;
mod performance;
mod quality;
mod summary_file;
mod table;
mod timing;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use inputs::Inputs;
pub use memory_table::memory_table;
pub(crate) use mixture::{differing_settings, performance_mixture, performance_setting, quality_mixture};
pub use modes::{ModeRows, STANDARD, group_by_mode, ordered_modes};
pub use number_text::significant;
pub use performance::{
    best_performers, energy_analysis, memory_analysis, quant_summary, throughput_comparison,
};
pub use quality::QualityRows;
pub use summary_file::{SummaryRow, read_quant_summary};
pub use table::{Field, Table, rounded};
pub use timing::{TimedCell, only_cell, timed_cells, timing_analysis};

use crate::figures::{self, FigureError};
use crate::report;
use crate::results::{ResultsError, write_atomically, write_evaluation_tables, write_quality_tables};

/// Name of the summary for a model's page.
pub const CARD_FILE: &str = "card.md";

/// Name of the report in the output directory.
pub const REPORT_FILE: &str = "performance_report.txt";

/// Files about performance that an analysis writes only when there is something to say. What an earlier analysis left
/// of them is removed, so that an output directory never shows numbers of another run.
const OPTIONAL_FILES: [&str; 10] = [
    "memory_analysis.csv",
    "energy_analysis.csv",
    "timing_analysis.csv",
    "throughput_comparison.png",
    "memory_comparison.png",
    "latency_comparison.png",
    "energy_efficiency.png",
    "energy_per_megabase.png",
    "memory_table.csv",
    "performance_memory_tradeoff.png",
];

/// The same for quality; left alone by an analysis that skips quality. Tables are not among them, since those of the
/// original system may be what was read.
const OPTIONAL_QUALITY_FIGURES: [&str; 6] = [
    "divergence_comparison.png",
    "cosine_similarity.png",
    "snr_comparison.png",
    "quality_metrics_last.png",
    "quality_metrics_second_last.png",
    "token_kl.png",
];

/// Why a results directory cannot be analysed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalysisError {
    /// There is no such directory.
    #[error("{} is no directory; expected the output directory of a run", directory.display())]
    NoDirectory {
        /// The path that was given.
        directory: PathBuf,
    },
    /// The directory holds nothing to analyse.
    #[error(
        "no results in {}: expected benchmark_*.csv, performance_metrics.csv or quality_metrics.csv with at least \
         one row",
        directory.display()
    )]
    NoResults {
        /// The results directory.
        directory: PathBuf,
    },
    /// No cell has numbers.
    #[error("nothing to analyse in {}: all {failed} cells failed or are invalid; the first: {first}", directory.display())]
    NothingSucceeded {
        /// The results directory.
        directory: PathBuf,
        /// Number of failed cells.
        failed: usize,
        /// Mode, status and reason of the first.
        first: String,
    },
    /// The output directory cannot be made.
    #[error("cannot create the output directory {}: {source}", directory.display())]
    Output {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of results is faulty or cannot be written.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A figure cannot be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
}

/// What to leave out of an analysis.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnalysisOptions {
    /// Neither read nor write quality tables, nor draw their figures.
    pub skip_quality: bool,
}

/// What an analysis made.
#[derive(Debug, Default)]
pub struct AnalysisSummary {
    /// The files written, in order.
    pub files: Vec<PathBuf>,
    /// Doubts about the numbers; also in the report.
    pub warnings: Vec<String>,
    /// The main numbers by mode, an aligned table of text for the terminal.
    pub overview: String,
    /// Every weight by mode: bits, bytes, and how it is run; empty where nobody recorded that.
    pub memory_table: String,
    /// Modes with cells that failed or are invalid.
    pub faulty_modes: Vec<String>,
}

/// Reads `results_dir` and writes tables, figures and `performance_report.txt` into `output_dir`, which is made when
/// it is not there. Each file appears whole or not at all.
///
/// # Errors
/// [`AnalysisError`]; nothing is written when the results cannot be read.
pub fn analyze(
    results_dir: &Path,
    output_dir: &Path,
    options: AnalysisOptions,
) -> Result<AnalysisSummary, AnalysisError> {
    let mut inputs = Inputs::read(results_dir, output_dir, options.skip_quality)?;
    let mixtures = mixture::warnings(&inputs.rows, &inputs.quality);
    inputs.warnings.extend(mixtures);
    fs::create_dir_all(output_dir).map_err(|source| AnalysisError::Output {
        directory: output_dir.to_path_buf(),
        source,
    })?;

    let modes = group_by_mode(&inputs.rows);
    let mut tables = Vec::new();
    if !modes.is_empty() {
        if !modes.iter().any(|group| group.mode == STANDARD) {
            let note = format!("no row of mode `{STANDARD}`: comparisons with it are empty");
            inputs.warnings.push(note);
        }
        tables.extend([
            Some(quant_summary(&modes)),
            memory_analysis(&modes),
            Some(throughput_comparison(&modes)),
            timing_analysis(&inputs.timed),
            energy_analysis(&modes),
            Some(best_performers(&inputs.rows)),
        ]);
    }
    tables.push(memory_table(&inputs.weights));
    let mut files = Vec::new();
    for table in tables.into_iter().flatten() {
        table.write(output_dir)?;
        files.push(output_dir.join(table.file_name));
    }
    let records = [
        inputs.quality_records.as_slice(),
        inputs.evaluation_records.as_slice(),
    ]
    .concat();
    files.extend(write_quality_tables(output_dir, &records)?);
    files.extend(write_evaluation_tables(output_dir, &records)?);
    files.extend(figures::draw(&inputs, output_dir)?);
    if !modes.is_empty() {
        remove_stale(output_dir, &OPTIONAL_FILES, &files)?;
    }
    if !options.skip_quality {
        remove_stale(output_dir, &OPTIONAL_QUALITY_FIGURES, &files)?;
        remove_stale(output_dir, &figures::evaluations::FILES, &files)?;
        remove_stale(output_dir, &[CARD_FILE], &files)?;
    }
    let card = report::card(&inputs);
    if !card.is_empty() {
        let path = output_dir.join(CARD_FILE);
        write_atomically(&path, |file| file.write_all(card.as_bytes()))?;
        files.push(path);
    }
    let report_path = output_dir.join(REPORT_FILE);
    let text = report::performance_report(&inputs, results_dir, &files);
    write_atomically(&report_path, |file| file.write_all(text.as_bytes()))?;
    files.push(report_path);
    let overview = report::overview(&inputs);
    Ok(AnalysisSummary {
        memory_table: memory_table(&inputs.weights)
            .map(|table| report::whole_table(&table))
            .unwrap_or_default(),
        faulty_modes: inputs.faulty().into_keys().collect(),
        files,
        warnings: inputs.warnings,
        overview,
    })
}

fn remove_stale(output_dir: &Path, optional: &[&str], written: &[PathBuf]) -> Result<(), ResultsError> {
    for path in optional.iter().map(|name| output_dir.join(name)) {
        if !written.contains(&path) && path.exists() {
            fs::remove_file(&path).map_err(ResultsError::io("remove", &path))?;
        }
    }
    Ok(())
}
