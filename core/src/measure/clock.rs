//! Where time comes from: the machine's clock, or a simulated one in tests of what is done with times.

use std::time::{Duration, Instant};

/// A clock that never goes back.
pub trait Clock {
    /// Time since a moment that stays the same.
    fn now(&self) -> Duration;
}

/// This machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct WallClock(Instant);

impl WallClock {
    /// A clock that counts from now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
