//! Everything that this plugin stores, against what bitsandbytes stores on a CPU.

mod golden;
mod int8_activations;
