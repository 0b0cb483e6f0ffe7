//! Records a device's readings while a cell runs: idle, the timed batches, idle again.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use qbench_core::measure::energy::{Energy, Pace, Reading, Sampler, TimedRegion, Trace, Window, account};

use super::Opened;

/// How long a device is watched idle, before and after.
const IDLE: Duration = Duration::from_secs(1);
/// How long after loading or the work the idle watch begins: power falls within some tenths of a second.
const SETTLE: Duration = Duration::from_millis(500);

/// A recording under way.
pub struct Recorder {
    origin: Instant,
    source: String,
    pace: Pace,
    reader: Reader,
    idle_before: Window,
    work: Window,
    notes: Vec<String>,
}

enum Reader {
    /// Reads when it is told.
    Edges {
        sampler: Box<dyn Sampler>,
        readings: Vec<Reading>,
        failure: Option<String>,
    },
    /// Reads all the time, in a thread of its own.
    Polling {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<Result<Vec<Reading>, String>>,
    },
    Ended,
}

impl Recorder {
    /// Starts to record, and watches the idle device.
    pub fn start(opened: Opened) -> Self {
        let origin = Instant::now();
        let Opened { sampler, notes } = opened;
        let (source, pace) = (sampler.source(), sampler.pace());
        let mut recorder = Self {
            origin,
            source,
            pace,
            reader: reader(sampler, pace, origin),
            idle_before: Window::default(),
            work: Window::default(),
            notes,
        };
        if pace != Pace::Edges {
            // Power settles after loading, and the counter moves before the window's start, as it must be seen to do.
            thread::sleep(SETTLE);
        }
        recorder.idle_before = recorder.idle();
        recorder
    }

    fn idle(&mut self) -> Window {
        let start = self.mark();
        thread::sleep(IDLE);
        Window {
            start,
            end: self.mark(),
        }
    }

    /// The moment, read where reading is done at edges.
    fn mark(&mut self) -> f64 {
        if let Reader::Edges {
            sampler,
            readings,
            failure,
        } = &mut self.reader
        {
            let sample = sampler.read();
            let seconds = self.origin.elapsed().as_secs_f64();
            match sample {
                Ok(sample) => readings.push(Reading { seconds, sample }),
                Err(error) => *failure = Some(error),
            }
            return seconds;
        }
        self.origin.elapsed().as_secs_f64()
    }

    /// Watches the idle device again, ends the recording, and computes what was used.
    ///
    /// # Errors
    /// The device could not be read throughout.
    pub fn finish(mut self) -> Result<(Energy, Trace), String> {
        thread::sleep(SETTLE);
        let idle_after = self.idle();
        let readings = match mem::replace(&mut self.reader, Reader::Ended) {
            Reader::Edges {
                readings,
                failure: None,
                ..
            } => readings,
            Reader::Edges {
                failure: Some(failure),
                ..
            } => return Err(failure),
            Reader::Polling { stop, thread } => {
                // The counter moves once more, so that the window's end lies between two updates.
                thread::sleep(SETTLE);
                stop.store(true, Ordering::Relaxed);
                thread
                    .join()
                    .map_err(|_| "the thread that reads the device died".to_owned())??
            }
            Reader::Ended => Vec::new(),
        };
        let trace = Trace {
            source: mem::take(&mut self.source),
            pace: self.pace,
            readings,
            idle_before: Some(self.idle_before),
            work: self.work,
            idle_after: Some(idle_after),
        };
        let mut energy = account(&trace);
        energy.notes.append(&mut self.notes);
        Ok((energy, trace))
    }
}

impl TimedRegion for Recorder {
    fn begin(&mut self) {
        self.work.start = self.mark();
    }

    fn end(&mut self) {
        self.work.end = self.mark();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Reader::Polling { stop, .. } = &self.reader {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

fn reader(mut sampler: Box<dyn Sampler>, pace: Pace, origin: Instant) -> Reader {
    let Pace::Every(pause) = pace else {
        return Reader::Edges {
            sampler,
            readings: Vec::new(),
            failure: None,
        };
    };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let mut readings = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let sample = sampler.read()?;
            let seconds = origin.elapsed().as_secs_f64();
            readings.push(Reading { seconds, sample });
            thread::sleep(pause);
        }
        Ok(readings)
    });
    Reader::Polling { stop, thread }
}

#[cfg(test)]
mod tests {
    use qbench_core::measure::energy::Sample;

    use super::*;

    /// A device whose counter is the time: 1 W.
    struct OneWatt {
        origin: Instant,
        pace: Pace,
        fails: bool,
    }

    impl Sampler for OneWatt {
        fn source(&self) -> String {
            "one watt".to_owned()
        }

        fn pace(&self) -> Pace {
            self.pace
        }

        fn read(&mut self) -> Result<Sample, String> {
            if self.fails {
                return Err("lost".to_owned());
            }
            Ok(Sample {
                counter_joules: Some(self.origin.elapsed().as_secs_f64()),
                watts: Some(1.0),
                ..Sample::default()
            })
        }
    }

    fn record(pace: Pace, fails: bool) -> Result<(Energy, Trace), String> {
        let sampler = Box::new(OneWatt {
            origin: Instant::now(),
            pace,
            fails,
        });
        let mut recorder = Recorder::start(Opened {
            sampler,
            notes: vec!["a doubt".to_owned()],
        });
        recorder.begin();
        thread::sleep(Duration::from_millis(50));
        recorder.end();
        recorder.finish()
    }

    #[test]
    fn both_paces_give_windows_in_order_and_energy() {
        for pace in [Pace::Edges, Pace::Every(Duration::from_millis(5))] {
            let (energy, trace) = record(pace, false).unwrap();
            let (before, after) = (trace.idle_before.unwrap(), trace.idle_after.unwrap());
            assert!(before.end <= trace.work.start && trace.work.end < after.start);
            assert!(
                energy.idle_before_watts.is_some()
                    && energy.idle_after_watts.is_some()
                    && energy.net_joules.is_some(),
                "{energy:?}"
            );
            assert!(energy.notes.contains(&"a doubt".to_owned()));
        }
    }

    #[test]
    fn a_device_that_is_lost_is_a_reason() {
        assert_eq!(record(Pace::Edges, true).unwrap_err(), "lost");
        assert_eq!(
            record(Pace::Every(Duration::from_millis(5)), true).unwrap_err(),
            "lost"
        );
    }
}
