//! Joules and watts from a trace.
//!
//! *Counter.* A GPU's counter of energy moves in steps of some 20 to 100 ms, so that two readings of it at the edges of a
//! window may be off by a step each. Here the moments at which it moved are found in the readings (each lies between two
//! readings; the middle is taken), energy between two such moments is drawn as a straight line, and the line is read at
//! the window's edges. Readings before and after the window are needed for that, which the idle windows give. A counter
//! that is exact at any moment (RAPL) has such a moment at each reading.
//!
//! *Power.* Instant power is integrated over the window by the trapezoidal rule, as an independent witness.
//!
//! *Idle.* Mean power while the model is loaded and nothing runs, before and after; the energy above it is the net energy.

use serde::{Deserialize, Serialize};

use super::{Pace, Reading, Trace, Window};

/// Share of the counter's energy by which the integral of power may differ; more is flagged. They commonly agree to 1 %.
pub const DISAGREEMENT: f64 = 0.05;
/// With fewer updates of the counter in the window than this, its energy is uncertain by more than about 5 %; flagged.
pub const FEW_UPDATES: u64 = 20;
/// Instant power that was read further apart than this in seconds is not integrated.
const WIDEST_GAP: f64 = 1.0;

/// Smallest, mean and largest of the readings in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Mean over the readings.
    pub mean: f64,
    /// Largest.
    pub max: f64,
}

/// What a device used in the timed region. What could not be had is `None`, and `notes` say why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Who read what.
    pub source: String,
    /// Length of the timed region in seconds, from its first batch's start to its last one's end.
    pub seconds: f64,
    /// All joules in it: those of the counter where there are any, else those of the integral.
    pub gross_joules: Option<f64>,
    /// Joules by the counter.
    pub counter_joules: Option<f64>,
    /// Times that the counter moved in the region.
    pub counter_updates: u64,
    /// Joules by the integral of instant power.
    pub integrated_joules: Option<f64>,
    /// (integral − counter) / counter.
    pub disagreement: Option<f64>,
    /// Watts before the work, the model loaded.
    pub idle_before_watts: Option<f64>,
    /// Watts after the work.
    pub idle_after_watts: Option<f64>,
    /// `gross_joules` without the idle power (the mean of before and after) over the region.
    pub net_joules: Option<f64>,
    /// Clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<Spread>,
    /// Clock of the memory in MHz.
    pub memory_clock_mhz: Option<Spread>,
    /// Temperature in degrees Celsius.
    pub celsius: Option<Spread>,
    /// What held the clocks down at some time, by name.
    pub throttle: Vec<String>,
    /// Why something is missing or doubtful.
    pub notes: Vec<String>,
}

/// The energy of a trace's timed region.
pub fn account(trace: &Trace) -> Energy {
    let curve = Curve::of(trace);
    let window = trace.work;
    let mut energy = Energy {
        source: trace.source.clone(),
        seconds: window.seconds(),
        counter_joules: curve.joules(window),
        counter_updates: curve.updates(window),
        integrated_joules: integral(&trace.readings, window),
        idle_before_watts: trace.idle_before.and_then(|idle| watts(trace, &curve, idle)),
        idle_after_watts: trace.idle_after.and_then(|idle| watts(trace, &curve, idle)),
        sm_clock_mhz: spread(trace, |reading| reading.sample.sm_clock_mhz),
        memory_clock_mhz: spread(trace, |reading| reading.sample.memory_clock_mhz),
        celsius: spread(trace, |reading| reading.sample.celsius),
        throttle: throttle(trace),
        ..Energy::default()
    };
    energy.gross_joules = energy.counter_joules.or(energy.integrated_joules);
    energy.disagreement = energy
        .counter_joules
        .filter(|&counter| counter > 0.0)
        .zip(energy.integrated_joules)
        .map(|(counter, integral)| (integral - counter) / counter);
    energy.net_joules = energy
        .gross_joules
        .zip(idle_watts(&energy))
        .map(|(gross, idle)| gross - idle * energy.seconds);
    energy.notes = notes(trace, &energy);
    energy
}

fn idle_watts(energy: &Energy) -> Option<f64> {
    match (energy.idle_before_watts, energy.idle_after_watts) {
        (Some(before), Some(after)) => Some(f64::midpoint(before, after)),
        (before, after) => before.or(after),
    }
}

/// The counter's energy over time: straight lines between the moments at which it moved.
struct Curve {
    /// Seconds and joules.
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn of(trace: &Trace) -> Self {
        let readings: Vec<(f64, f64)> = trace
            .readings
            .iter()
            .filter_map(|reading| Some((reading.seconds, reading.sample.counter_joules?)))
            .collect();
        let points = match trace.pace {
            Pace::Edges => readings,
            Pace::Every(_) => readings
                .windows(2)
                .filter(|pair| pair[1].1 > pair[0].1)
                .map(|pair| (f64::midpoint(pair[0].0, pair[1].0), pair[1].1))
                .collect(),
        };
        Self { points }
    }

    /// Joules at a moment; `None` before the first and after the last point.
    fn at(&self, seconds: f64) -> Option<f64> {
        let next = self.points.partition_point(|point| point.0 < seconds);
        let (t1, e1) = *self.points.get(next)?;
        if t1 == seconds {
            return Some(e1);
        }
        let (t0, e0) = *self.points.get(next.checked_sub(1)?)?;
        Some(e0 + (e1 - e0) * (seconds - t0) / (t1 - t0))
    }

    fn joules(&self, window: Window) -> Option<f64> {
        Some(self.at(window.end)? - self.at(window.start)?)
    }

    fn updates(&self, window: Window) -> u64 {
        let inside = |point: &&(f64, f64)| (window.start..=window.end).contains(&point.0);
        self.points.iter().filter(inside).count() as u64
    }
}

/// Joules by the trapezoidal rule over instant power; power at the edges lies on the lines between readings.
fn integral(readings: &[Reading], window: Window) -> Option<f64> {
    let powers: Vec<(f64, f64)> = readings
        .iter()
        .filter_map(|reading| Some((reading.seconds, reading.sample.watts?)))
        .collect();
    let (first, last) = (powers.first()?, powers.last()?);
    if first.0 > window.start || last.0 < window.end {
        return None;
    }
    let mut joules = 0.0;
    for pair in powers.windows(2) {
        let [(t0, p0), (t1, p1)] = [pair[0], pair[1]];
        let (start, end) = (t0.max(window.start), t1.min(window.end));
        if start >= end {
            continue;
        }
        if t1 - t0 > WIDEST_GAP {
            return None;
        }
        let at = |t: f64| p0 + (p1 - p0) * (t - t0) / (t1 - t0);
        joules += f64::midpoint(at(start), at(end)) * (end - start);
    }
    Some(joules)
}

/// Mean power over an idle window. A counter that hardly moved in it says less than power does.
fn watts(trace: &Trace, curve: &Curve, idle: Window) -> Option<f64> {
    /// Updates within an idle window that make the counter's power better than about 20 %.
    const ENOUGH: u64 = 5;
    let by_counter = || curve.joules(idle).map(|joules| joules / idle.seconds());
    let by_power = || integral(&trace.readings, idle).map(|joules| joules / idle.seconds());
    let exact = trace.pace == Pace::Edges || curve.updates(idle) >= ENOUGH;
    if exact {
        by_counter().or_else(by_power)
    } else {
        by_power().or_else(by_counter)
    }
}

fn inside(trace: &Trace) -> impl Iterator<Item = &Reading> {
    let Window { start, end } = trace.work;
    trace
        .readings
        .iter()
        .filter(move |reading| (start..=end).contains(&reading.seconds))
}

fn spread(trace: &Trace, value: fn(&Reading) -> Option<f64>) -> Option<Spread> {
    let values: Vec<f64> = inside(trace).filter_map(value).collect();
    if values.is_empty() {
        return None;
    }
    Some(Spread {
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        mean: values.iter().sum::<f64>() / values.len() as f64,
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

fn throttle(trace: &Trace) -> Vec<String> {
    let mut names: Vec<String> = inside(trace)
        .flat_map(|reading| reading.sample.throttle.iter().cloned())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn notes(trace: &Trace, energy: &Energy) -> Vec<String> {
    let mut notes = Vec::new();
    let has = |value: fn(&Reading) -> bool| trace.readings.iter().any(value);
    let polled = matches!(trace.pace, Pace::Every(_));
    if energy.counter_joules.is_none() {
        notes.push(if has(|reading| reading.sample.counter_joules.is_some()) {
            "the energy counter did not move both before and after the timed region".to_owned()
        } else {
            "the device shows no energy counter".to_owned()
        });
    } else if polled && energy.counter_updates < FEW_UPDATES {
        notes.push(format!(
            "the energy counter moved {} times in the timed region of {:.2} s, fewer than {FEW_UPDATES}: its energy is \
             uncertain by about a step at each end",
            energy.counter_updates, energy.seconds
        ));
    }
    if polled && energy.integrated_joules.is_none() {
        notes.push(if has(|reading| reading.sample.watts.is_some()) {
            format!(
                "instant power was not read throughout the timed region at most {WIDEST_GAP} s apart, and is not \
                 integrated"
            )
        } else {
            "the device shows no instant power".to_owned()
        });
    }
    if let Some(disagreement) = energy.disagreement.filter(|share| share.abs() > DISAGREEMENT) {
        notes.push(format!(
            "the integral of instant power differs from the energy counter by {:+.1} %, more than {} %",
            disagreement * 100.0,
            DISAGREEMENT * 100.0
        ));
    }
    if energy.gross_joules.is_some() && energy.net_joules.is_none() {
        notes.push("idle power was not measured, hence no net energy".to_owned());
    }
    if !energy.throttle.is_empty() {
        notes.push(format!(
            "clocks were held down by: {}",
            energy.throttle.join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests;
