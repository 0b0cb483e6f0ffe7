//! Results on disk: the record of finished cells, and the tables made from it.
//!
//! `cells.jsonl` is the record ([`Journal`]); `benchmark_<timestamp>.csv` ([`write_benchmark`]) and the quality tables
//! ([`write_quality_tables`]) are computed from it. The readers also take the files of the original Python system.

mod batch_times;
mod benchmark;
mod csv_table;
mod error;
mod evaluation;
mod evaluation_tables;
mod files;
mod journal;
mod memory;
pub(crate) mod number;
mod quality;
mod quality_parts;
mod record;
#[cfg(test)]
pub(crate) mod test_records;
mod token_columns;
mod token_quality;

pub use batch_times::{BatchTimes, GenerationTimes};
pub use benchmark::{
    BenchmarkRow, BenchmarkTable, read_benchmark, read_benchmarks, write_benchmark, write_benchmark_rows,
};
pub use error::ResultsError;
pub use evaluation::{
    Binning, BinningAgreement, BinningPoint, Evaluation, HiddenStateQuality, Layers, ReverseComplement,
    StrandPair, VariantScore, Variants,
};
pub use evaluation_tables::*;
pub use files::write_atomically;
pub use journal::{
    JOURNAL_FILE, Journal, JournalContents, read_journal, read_journal_adjusted, read_journal_file,
};
pub use memory::{CellMemory, Held, Probe, WeightMemory};
pub use quality::{
    DISTRIBUTION_FILE, DistributionRow, LOGITS_LAYER, QUALITY_FILE, QualityRow, distribution_rows,
    is_noise_floor, quality_rows, read_distributions, read_quality, write_quality_tables,
};
pub use quality_parts::{GROUP_FILE, GroupRow, SEQUENCE_FILE, SequenceRow, group_rows, sequence_rows};
pub use record::*;
pub use token_quality::{
    Distribution, Estimate, SequenceQuality, SlidingPerplexity, TokenGroup, TokenQuality,
};
