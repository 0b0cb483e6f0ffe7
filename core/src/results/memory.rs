//! Memory of a performance cell: what each weight takes, and what each witness counted.

use serde::{Deserialize, Serialize};

/// One weight of a loaded model: what its layout declares and what the backend says that it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightMemory {
    /// Name in the checkpoint.
    pub name: String,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Element type in the checkpoint.
    pub dtype: String,
    /// Whether the mode stores it; otherwise it is handed out as it is.
    pub quantised: bool,
    /// Kind id of the layout in which the host stored it.
    pub layout: String,
    /// Fewest bytes that hold it: those of its layout, or of a dense weight in the narrower of its own type and the
    /// run's.
    pub least_bytes: u64,
    /// Most bytes that hold it: those of its layout; for a dense weight those of the wider type; for one that is
    /// openly turned into floats at load, those of the floats.
    pub declared_bytes: u64,
    /// Bytes that the backend says it holds for it.
    pub held_bytes: u64,
    /// How it is run, in words.
    pub execution: String,
}

impl WeightMemory {
    /// Bits a weight by the layout's declaration.
    pub fn declared_bits(&self) -> f64 {
        bits(self.declared_bytes, self.rows, self.cols)
    }

    /// Bits a weight as held.
    pub fn held_bits(&self) -> f64 {
        bits(self.held_bytes, self.rows, self.cols)
    }
}

fn bits(bytes: u64, rows: usize, cols: usize) -> f64 {
    bytes as f64 * 8.0 / (rows * cols) as f64
}

/// Bytes held at three moments: after loading, at most during the timed passes, and after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// After loading, before the first pass.
    pub loaded: u64,
    /// At most during the timed passes.
    pub peak: u64,
    /// After the last pass.
    pub after: u64,
}

/// What each witness counted, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellMemory {
    /// Mapped from the checkpoint's files by the host for the backend, after loading.
    pub host_mapped_bytes: u64,
    /// Allocated by the host for the backend's weights, after loading.
    pub host_owned_bytes: u64,
    /// By the backend's own allocator.
    pub backend: Held,
    /// What that allocator holds from the device, where it differs, after the last pass.
    pub backend_reserved_bytes: Option<u64>,
    /// Most that the layouts declare for all weights together.
    pub declared_bytes: u64,
    /// Least that holds all weights.
    pub least_bytes: u64,
    /// Declared by scheme and backend besides: tables, scratch of products.
    pub workspace_bytes: u64,
    /// By the system after loading and after the last pass, each more than before loading.
    pub system: Option<[u64; 2]>,
    /// Who that is: `RssAnon of the process`, `NVML for the whole GPU`.
    #[serde(default)]
    pub system_measured_by: String,
    /// Why the system's count is missing.
    #[serde(default)]
    pub system_reason: String,
    /// Largest resident set of the process while the timed passes ran (VmHWM), mapped files included.
    pub process_peak_bytes: Option<u64>,
}

/// A few passes over one short batch, after the timed ones: what each leaves behind, and whether it was finished.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Passes over the same short batch.
    pub passes: u64,
    /// Bytes that each pass after the first left behind, as the backend's allocator counts.
    pub backend_growth_bytes: Vec<i64>,
    /// The same as the system counts; empty where it does not.
    pub system_growth_bytes: Vec<i64>,
    /// Wall-clock seconds of the quickest pass, its synchronisation included.
    pub pass_seconds: f64,
    /// Seconds of the quickest second synchronisation, directly after the first.
    pub second_synchronize_seconds: f64,
    /// Device time of a pass over its wall-clock time, the least of all passes, where the device has a clock.
    pub device_share: Option<f64>,
}
