//! Measurement: clocks, when to stop, the timed pass, the energy counters, and the operations that a pass stands for.

pub mod clock;
pub mod energy;
pub mod flops;
pub mod sampling;
pub mod speed;
