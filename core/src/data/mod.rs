//! Sequences in: a table or a FASTA file becomes a [`Dataset`].
//!
//! | format | recognised by | genome | fragment |
//! |---|---|---|---|
//! | FASTA | first byte `>` | first word of the header | number of the record, from 0 |
//! | CSV, TSV | file name (`.csv`, `.tsv`, `.tab`), else the delimiter in the first line | column `genome_id` | column `fragment_id`, else number of the row, from 0 |
//!
//! Either may be compressed with gzip; a file that grows far more than sequences do is refused, see `gzip`. The bases are the column `seq` of a table; other columns are ignored.
//!
//! # Letters
//! A model's tokenizer knows `A C G T N`. Lower case (soft masking) becomes upper case, `U` becomes `T`, and the
//! IUPAC codes of an ambiguous base (`R Y S W K M B D H V`) become `N`; [`Dataset::ambiguous_bases`] counts those.
//! Anything else, gaps included, is an error.

mod bases;
mod dataset;
mod error;
mod fasta;
mod gzip;
mod table;

#[cfg(test)]
mod tests;

pub use dataset::{Dataset, Sequence};
pub use error::DataError;
