use std::time::Duration;

use super::*;
use crate::measure::energy::{Recorded, Sample, Sampler};

/// Idle at 100 W until 2 s, work at 500 W until 8 s, idle at 120 W until 10 s.
fn joules_at(seconds: f64) -> f64 {
    let work = (seconds.clamp(2.0, 8.0) - 2.0) * 500.0;
    seconds.min(2.0) * 100.0 + work + (seconds.max(8.0) - 8.0) * 120.0
}

fn watts_at(seconds: f64) -> f64 {
    match seconds {
        before if before < 2.0 => 100.0,
        work if work < 8.0 => 500.0,
        _ => 120.0,
    }
}

/// Read every 20 ms; the counter moves every 100 ms, at 50 ms past the tenth.
fn polled() -> Trace {
    let readings = (0..=500).map(|poll| {
        let seconds = f64::from(poll) * 0.02;
        let update = ((seconds - 0.05) / 0.1).floor() * 0.1 + 0.05;
        Reading {
            seconds,
            sample: Sample {
                counter_joules: Some(1e6 + joules_at(update.max(0.0))),
                watts: Some(watts_at(seconds)),
                sm_clock_mhz: Some(if seconds < 5.0 { 1980.0 } else { 1700.0 }),
                celsius: Some(40.0),
                throttle: if seconds > 7.0 && seconds < 7.5 {
                    vec!["sw_power_cap".to_owned()]
                } else {
                    Vec::new()
                },
                ..Sample::default()
            },
        }
    });
    Trace {
        source: "a recorded card".to_owned(),
        pace: Pace::Every(Duration::from_millis(20)),
        readings: readings.collect(),
        idle_before: Some(Window { start: 0.5, end: 1.5 }),
        work: Window { start: 2.0, end: 8.0 },
        idle_after: Some(Window { start: 8.5, end: 9.5 }),
    }
}

/// An update lies between two readings 20 ms apart, and one step of 100 ms straddles each edge of the window: at 500 W
/// the curve may be off by 10 ms, and by half of the step's difference in power of 400 W.
const EDGE_JOULES: f64 = 2.0 * (0.01 * 500.0 + 0.05 * 400.0);

fn assert_near(found: Option<f64>, expected: f64, tolerance: f64) {
    let found = found.unwrap();
    assert!(
        (found - expected).abs() <= tolerance,
        "{found} instead of {expected}"
    );
}

#[test]
fn a_polled_card_gives_gross_and_net_energy_by_two_witnesses() {
    let energy = account(&polled());
    assert_near(energy.counter_joules, 3000.0, EDGE_JOULES);
    assert_eq!(energy.counter_updates, 60);
    // At each edge half of a reading's distance at a power between idle and work.
    assert_near(energy.integrated_joules, 3000.0, 2.0 * 0.02 * 500.0);
    assert!(energy.disagreement.unwrap().abs() < DISAGREEMENT);
    assert_near(energy.idle_before_watts, 100.0, 100.0 * 0.02);
    assert_near(energy.idle_after_watts, 120.0, 120.0 * 0.02);
    // 3000 J − 110 W · 6 s.
    assert_near(energy.net_joules, 2340.0, EDGE_JOULES + 6.0 * 2.4);
    let clock = energy.sm_clock_mhz.unwrap();
    assert_eq!((clock.min, clock.max), (1700.0, 1980.0));
    assert_eq!(energy.throttle, ["sw_power_cap"]);
    assert_eq!(energy.notes, ["clocks were held down by: sw_power_cap"]);
}

#[test]
fn constant_power_is_exact_whatever_the_edges() {
    let mut trace = polled();
    for reading in &mut trace.readings {
        // 250 W throughout; the counter moves with every reading.
        reading.sample.counter_joules = Some(250.0 * reading.seconds);
        reading.sample.watts = Some(250.0);
    }
    trace.work = Window {
        start: 2.013,
        end: 7.777,
    };
    let energy = account(&trace);
    let expected = 250.0 * (7.777 - 2.013);
    assert_near(energy.counter_joules, expected, 1e-9 * expected);
    assert_near(energy.integrated_joules, expected, 1e-9 * expected);
    assert_near(energy.net_joules, 0.0, 1e-6);
}

#[test]
fn a_counter_that_lags_is_flagged() {
    let mut trace = polled();
    for reading in &mut trace.readings {
        reading.sample.watts = reading.sample.watts.map(|watts| watts * 1.2);
        reading.sample.throttle.clear();
    }
    let energy = account(&trace);
    assert_eq!(energy.notes.len(), 1, "{:?}", energy.notes);
    assert!(
        energy.notes[0].contains("differs from the energy counter by +"),
        "{:?}",
        energy.notes
    );
}

#[test]
fn what_is_missing_is_empty_with_a_reason() {
    let mut trace = polled();
    for reading in &mut trace.readings {
        reading.sample = Sample {
            watts: reading.sample.watts,
            ..Sample::default()
        };
    }
    trace.idle_after = None;
    let energy = account(&trace);
    assert_eq!((energy.counter_joules, energy.disagreement), (None, None));
    assert_eq!(energy.gross_joules, energy.integrated_joules);
    assert_near(energy.idle_before_watts, 100.0, 1e-9);
    assert_eq!(energy.notes, ["the device shows no energy counter"]);

    trace.readings.retain(|reading| reading.seconds < 7.0);
    let energy = account(&trace);
    assert_eq!((energy.gross_joules, energy.net_joules), (None, None));
    assert!(
        energy.notes[1].contains("instant power was not read throughout"),
        "{:?}",
        energy.notes
    );
}

#[test]
fn a_short_region_says_how_few_updates_it_has() {
    let mut trace = polled();
    trace.work = Window { start: 2.5, end: 3.0 };
    let energy = account(&trace);
    assert_near(energy.counter_joules, 250.0, 2.0 * 0.01 * 500.0);
    assert!(
        energy.notes[0].contains("moved 5 times in the timed region of 0.50 s"),
        "{:?}",
        energy.notes
    );
}

#[test]
fn a_counter_read_at_the_edges_is_exact() {
    let at = |seconds: f64| Reading {
        seconds,
        sample: Sample {
            counter_joules: Some(joules_at(seconds)),
            ..Sample::default()
        },
    };
    let trace = Trace {
        pace: Pace::Edges,
        readings: [0.5, 1.5, 2.0, 8.0, 8.5, 9.5].map(at).to_vec(),
        ..polled()
    };
    let energy = account(&trace);
    assert_eq!(
        (energy.counter_joules, energy.integrated_joules),
        (Some(3000.0), None)
    );
    assert_eq!(
        (energy.idle_before_watts, energy.idle_after_watts),
        (Some(100.0), Some(120.0))
    );
    assert_eq!(energy.net_joules, Some(2340.0));
    assert_eq!(energy.notes, [] as [&str; 0]);
}

#[test]
fn a_recorded_trace_is_a_sampler() {
    let trace = polled();
    let mut sampler = Recorded::new(trace.clone());
    assert_eq!(
        (sampler.source().as_str(), sampler.pace()),
        ("a recorded card", trace.pace)
    );
    for reading in &trace.readings {
        assert_eq!(sampler.read().unwrap(), reading.sample);
    }
    assert!(sampler.read().unwrap_err().contains("has ended"));
}

/// The figures are numpy's, see `tests/fixtures/energy/README.md`; it prints them to about 1e-12 of themselves.
#[test]
fn a_trace_of_a_real_card_gives_what_numpy_gives() {
    let text = include_str!("../../../../tests/fixtures/energy/h200_half_load.json");
    let energy = account(&serde_json::from_str(text).unwrap());
    let expected = [
        (energy.counter_joules, 2_102.224_487_559_446),
        (energy.integrated_joules, 2_112.554_758_331_120_4),
        (energy.idle_before_watts, 127.767_279_497_437_51),
        (energy.idle_after_watts, 119.707_964_286_777_11),
    ];
    for (found, expected) in expected {
        assert_near(found, expected, 1e-9 * expected);
    }
    assert_eq!(energy.notes, [] as [&str; 0]);
}
