//! Sweeps: many runs at once, described by a plan, cut into tasks that can run anywhere, and merged again.
//!
//! A [`SweepPlan`] is a product of lists with inclusions and exclusions. It expands into [`Configuration`]s, each of
//! which is what one `qbench run` does; their cells are cut into tasks ([`pack`]), and what tasks leave behind is merged
//! into a results directory like that of a run ([`merge`]). Who runs tasks is not decided here.

mod expand;
mod merge;
mod outcome;
mod pack;
mod plan;
mod rule;

pub use expand::{Block, Configuration, MOST_CELLS};
pub use merge::{Merged, Unfinished, merge};
pub use outcome::{CellState, TaskFiles, TaskOutcome, finished_cells};
pub use pack::pack;
pub use plan::{Axes, CollectOptions, GroupOptions, PlanError, SlurmOptions, SweepPlan, nearest};
pub use rule::{Coordinates, Rule};
