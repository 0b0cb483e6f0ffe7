//! A recorded trace in place of a device.

use std::collections::VecDeque;

use super::{Pace, Sample, Sampler, Trace};

/// Gives the samples of a trace, one a call, in order: a device for tests, and for looking at a run again.
#[derive(Clone, Debug)]
pub struct Recorded {
    source: String,
    pace: Pace,
    samples: VecDeque<Sample>,
}

impl Recorded {
    /// The samples of `trace`.
    pub fn new(trace: Trace) -> Self {
        Self {
            source: trace.source,
            pace: trace.pace,
            samples: trace.readings.into_iter().map(|reading| reading.sample).collect(),
        }
    }
}

impl Sampler for Recorded {
    fn source(&self) -> String {
        self.source.clone()
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn read(&mut self) -> Result<Sample, String> {
        self.samples
            .pop_front()
            .ok_or_else(|| "the recorded trace has ended".to_owned())
    }
}
