//! Sweeps: many runs, cut into tasks that an executor runs, here or on a cluster, and merged again.
//!
//! What a sweep is and how far it has come is in its directory (`directory.rs`) and nowhere else: every command starts
//! from there, on any machine that sees it. Results are the truth; an executor is only asked which tasks are still under
//! way, and why one ended.

mod collect;
mod directory;
mod estimate;
mod executor;
mod local;
mod make;
mod options;
mod places;
mod resolver;
mod round;
mod slurm;
mod status;
mod task;

pub use collect::{Collection, UNFINISHED_FILE, collect};
pub use directory::{Sweep, SweepDirectory, TaskLine};
pub use estimate::{SweepEstimate, estimate};
pub use executor::{ExecutorKind, Submission, SubmitOptions, cancel, executor};
pub use make::{Draft, DraftOptions};
pub use round::last_logs;
pub use slurm::dry_run;
pub use status::{SweepStatus, TaskState};
pub use task::run_task;
