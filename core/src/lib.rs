//! The library behind qbench: data, workloads, measurement, quality, results, analysis, figures and reports.
//!
//! Data flows in one direction, and each stage can be rerun from the files of the one before:
//! [`data`] → [`workload`] → measured cells ([`measure`], [`quality`], [`biology`]) → [`results`] → [`analysis`] →
//! [`figures`] and [`report`]. [`statistics`] serves all of them; [`compare`] judges two sets of results, and
//! [`invariants`] whether a cell's numbers can be believed at all. Nothing here loads a plugin or
//! reads a command line. Threads live only within a call that is told how many to use ([`checkpoint`] fills large
//! weights with them).

pub mod analysis;
pub mod biology;
pub mod bounded;
pub mod checkpoint;
pub mod compare;
pub mod data;
pub mod figures;
pub mod invariants;
pub mod measure;
pub mod quality;
pub mod report;
pub mod results;
pub mod statistics;
pub mod sweep;
pub mod workload;
