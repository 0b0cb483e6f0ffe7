//! The device has finished when it says so, and its clock does not run past the host's.

use super::Violation;
use crate::results::Probe;

/// The device was still working when `synchronize` returned.
pub const DEVICE_IDLE: &str = "device_idle";
/// The device claims to have worked longer than the pass took.
pub const DEVICE_SECONDS: &str = "device_seconds";

/// A second synchronisation of an idle device returns within this share of a pass …
const IDLE_SHARE: f64 = 0.05;
/// … or within this time, whichever is longer.
const IDLE_SECONDS: f64 = 1e-3;
/// Two clocks of one pass agree within this share.
const CLOCK_SHARE: f64 = 0.02;

/// A device that has finished has nothing left for a second synchronisation.
pub fn device_idle(probe: &Probe) -> Option<Violation> {
    let limit = (probe.pass_seconds * IDLE_SHARE).max(IDLE_SECONDS);
    (probe.second_synchronize_seconds > limit).then(|| {
        Violation::new(
            DEVICE_IDLE,
            format!(
                "a second synchronisation directly after the first took {:.3} ms, after a pass of {:.3} ms: the device \
                 was not idle when the first returned",
                probe.second_synchronize_seconds * 1e3,
                probe.pass_seconds * 1e3
            ),
        )
    })
}

/// A pass does not take longer on the device than on the wall.
pub fn device_seconds(probe: &Probe) -> Option<Violation> {
    let share = probe.device_share.filter(|&share| share > 1.0 + CLOCK_SHARE)?;
    Some(Violation::new(
        DEVICE_SECONDS,
        format!(
            "by the device's clock a pass took {share:.3} times as long as by the host's: it was not finished when \
             `synchronize` returned, or the clock is wrong"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(pass_seconds: f64, second_synchronize_seconds: f64, device_share: Option<f64>) -> Probe {
        Probe {
            passes: 9,
            pass_seconds,
            second_synchronize_seconds,
            device_share,
            ..Probe::default()
        }
    }

    #[test]
    fn a_long_second_synchronisation_is_seen() {
        assert_eq!(device_idle(&probe(1e-4, 0.9e-3, None)), None);
        assert_eq!(device_idle(&probe(0.1, 4.9e-3, None)), None);
        assert!(device_idle(&probe(0.1, 5.1e-3, None)).is_some());
    }

    #[test]
    fn the_device_cannot_work_longer_than_the_pass() {
        assert_eq!(device_seconds(&probe(0.1, 0.0, Some(1.0))), None);
        assert_eq!(device_seconds(&probe(0.1, 0.0, None)), None);
        assert!(device_seconds(&probe(0.1, 0.0, Some(1.5))).is_some());
    }
}
