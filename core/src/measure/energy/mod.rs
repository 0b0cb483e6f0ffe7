//! Energy: what a device used while batches ran, from its own counters.
//!
//! A [`Sampler`] reads a device: [`Powercap`] the processor's counters, the host's NVML sampler a GPU's, [`Recorded`] a
//! trace from a file. Readings with their times make a [`Trace`]; [`account`] computes [`Energy`] from it, and nothing
//! else does, so that a recorded trace gives the same figures as the device did.

mod account;
mod powercap;
mod recorded;

pub use account::{DISAGREEMENT, Energy, FEW_UPDATES, Spread, account};
pub use powercap::Powercap;
pub use recorded::Recorded;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What reads a device's energy.
pub trait Sampler: Send {
    /// Who reads what, in words: `powercap: package-0, dram`.
    fn source(&self) -> String;

    /// When to read.
    fn pace(&self) -> Pace;

    /// One reading.
    ///
    /// # Errors
    /// Why there is none, as a sentence for tables and reports.
    fn read(&mut self) -> Result<Sample, String>;
}

/// When a device is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// At the edges of a window only: the counter is exact at any moment, and reading it costs energy itself.
    Edges,
    /// All the time, this long apart: the counter moves in steps, and power is known at a moment only.
    Every(Duration),
}

/// What a device shows at a moment. What it does not show is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Joules since some moment in the past; never falls.
    pub counter_joules: Option<f64>,
    /// Watts at this moment, not an average.
    pub watts: Option<f64>,
    /// Clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<f64>,
    /// Clock of the memory in MHz.
    pub memory_clock_mhz: Option<f64>,
    /// Temperature in degrees Celsius.
    pub celsius: Option<f64>,
    /// What holds the clocks down, by name; an idle device is no reason.
    pub throttle: Vec<String>,
}

/// A sample and its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Seconds since the trace began, when the sample had been taken.
    pub seconds: f64,
    /// What the device showed.
    #[serde(flatten)]
    pub sample: Sample,
}

/// A stretch of time in seconds since the trace began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its start.
    pub start: f64,
    /// Its end.
    pub end: f64,
}

impl Window {
    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.end - self.start
    }
}

/// Everything that was read around the timed batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// [`Sampler::source`].
    pub source: String,
    /// [`Sampler::pace`].
    pub pace: Pace,
    /// The readings, in order.
    pub readings: Vec<Reading>,
    /// The model is loaded and nothing runs yet.
    pub idle_before: Option<Window>,
    /// The timed batches.
    pub work: Window,
    /// Nothing runs any more.
    pub idle_after: Option<Window>,
}

/// What is told when the timed batches begin and when they have ended.
pub trait TimedRegion {
    /// The first timed batch starts next.
    fn begin(&mut self);
    /// The last timed batch has ended.
    fn end(&mut self);
}

/// Nobody is told.
impl TimedRegion for () {
    fn begin(&mut self) {}
    fn end(&mut self) {}
}
