//! A run: a plan, its cells one after the other, and what they leave behind.

mod evaluations;
mod manifest;
mod outdir;
mod plan;
mod progress;
mod reference;
mod schedule;
mod session;

pub use manifest::{MANIFEST_FILE, Manifest};
pub use outdir::{OutDir, write_json};
pub use plan::{Devices, Plan, REFERENCE_MODE, all_cores, is_file_name};
pub use progress::Progress;
pub use schedule::{PlannedCell, QualityGroup, Schedule, quality_cell};
pub use session::{Session, describe, outcome_text};
