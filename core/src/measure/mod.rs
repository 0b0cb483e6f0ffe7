//! Measurement: the timed pass, the energy counters, and the operations that a pass stands for.

pub mod energy;
pub mod flops;
pub mod speed;
