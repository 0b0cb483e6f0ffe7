//! Results on disk: the record of finished cells, and the tables made from it.

mod record;

pub use record::*;
