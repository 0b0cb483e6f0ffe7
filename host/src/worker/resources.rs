//! What a loaded model holds, and whether that can be believed.

use anyhow::Result;
use qbench_core::{
    checkpoint::TensorRecord,
    invariants::{self, Violation},
    results::{CellMemory, Held, Probe, WeightMemory},
};
use qbench_sdk::backend::Memory;

use super::{
    CellJob,
    load::Loaded,
    witness::{self, Witness},
};

/// The weights of a loaded model, and what is wrong with its account of them.
pub(super) fn weights(job: &CellJob, loaded: &Loaded) -> (Vec<WeightMemory>, Vec<Violation>) {
    let records: Vec<TensorRecord> = loaded.weights.records();
    let mut violations = invariants::execution_claims(&loaded.negotiated, &loaded.info);
    let weights = match invariants::join_weights(&records, &loaded.info, job.compute) {
        Ok(weights) => weights,
        Err(wrong) => {
            violations.extend(wrong);
            return (Vec::new(), violations);
        }
    };
    violations.extend(invariants::weight_bits(&weights));
    (weights, violations)
}

/// Counts memory from loading to the end of the passes.
pub(super) struct Accounts {
    loaded: Memory,
    system_loaded: Result<u64, String>,
    peak_was_reset: bool,
}

impl Accounts {
    /// Counts what is held after loading. The device has finished.
    pub(super) fn open(loaded: &Loaded) -> Result<Self> {
        Ok(Self {
            loaded: loaded.model.memory()?,
            system_loaded: loaded
                .witness
                .as_ref()
                .map_err(Clone::clone)
                .and_then(Witness::grown),
            peak_was_reset: witness::reset_process_peak(),
        })
    }

    /// Counts what is held after the passes.
    pub(super) fn close(self, loaded: &Loaded, weights: &[WeightMemory]) -> Result<CellMemory> {
        let process_peak_bytes = witness::process_peak_bytes().filter(|_| self.peak_was_reset);
        let memory = loaded.model.memory()?;
        let host = loaded.weights.memory();
        let system_after = loaded
            .witness
            .as_ref()
            .map_err(Clone::clone)
            .and_then(Witness::grown);
        let system = self
            .system_loaded
            .and_then(|before| system_after.map(|after| [before, after]));
        // Tables grow with the passes, and are declared as they are.
        let workspace_bytes = loaded.model.info()?.workspace_bytes + loaded.scheme_workspace_bytes;
        Ok(CellMemory {
            host_mapped_bytes: host.mapped_bytes,
            host_owned_bytes: host.owned_bytes,
            backend: Held {
                loaded: self.loaded.allocated,
                peak: memory.peak_allocated,
                after: memory.allocated,
            },
            backend_reserved_bytes: memory.reserved,
            declared_bytes: weights.iter().map(|weight| weight.declared_bytes).sum(),
            least_bytes: weights.iter().map(|weight| weight.least_bytes).sum(),
            workspace_bytes,
            system_reason: system.as_ref().err().cloned().unwrap_or_default(),
            system: system.ok(),
            system_measured_by: loaded
                .witness
                .as_ref()
                .map(Witness::measured_by)
                .unwrap_or_default(),
            process_peak_bytes,
        })
    }
}

/// What is wrong with the memory and the probe.
pub(super) fn violations(
    job: &CellJob,
    loaded: &Loaded,
    memory: &CellMemory,
    probe: &Probe,
) -> Vec<Violation> {
    let on_host = loaded.witness.as_ref().is_ok_and(Witness::on_host);
    let mut violations = Vec::new();
    // Without a list of weights nothing is declared; that is a violation already.
    if memory.declared_bytes > 0 {
        violations.extend(invariants::held_bytes(memory));
    }
    violations.extend(invariants::memory_claim(memory, job.threads, on_host));
    violations.extend(invariants::memory_leak(probe));
    violations.extend(invariants::device_idle(probe));
    violations.extend(invariants::device_seconds(probe));
    violations
}
