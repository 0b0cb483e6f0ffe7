//! What was handed out: bytes held now and at most, and one record a tensor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use qbench_sdk::DType;
use serde::{Deserialize, Serialize};

use super::tensor::TensorBytes;

/// Bytes of the tensors that are held, that is, handed out and not yet dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Mapped from files, now: pages that the system reads, shares and drops at will.
    pub mapped_bytes: u64,
    /// Allocated, now.
    pub owned_bytes: u64,
    /// Most that was allocated at any time.
    pub peak_owned_bytes: u64,
    /// Most that was mapped and allocated together at any time.
    pub peak_bytes: u64,
}

/// How one tensor was stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorRecord {
    /// Its name in the checkpoint.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Type in the checkpoint.
    pub source: DType,
    /// Bytes in the checkpoint.
    pub source_bytes: u64,
    /// Whether the mode stored it; otherwise it was handed out as it is.
    pub quantised: bool,
    /// Kind id of its layout.
    pub layout: String,
    /// Bytes of its buffers.
    pub bytes: u64,
    /// `bytes · 8 / (rows · cols)`: codes, scales and tables.
    pub bits_per_weight: f64,
    /// Seconds in the scheme's `quantize`; 0 if it was not called.
    pub quantize_seconds: f64,
}

#[derive(Default)]
pub(super) struct Ledger {
    mapped: AtomicU64,
    owned: AtomicU64,
    total: AtomicU64,
    peak_owned: AtomicU64,
    peak_total: AtomicU64,
    records: Mutex<BTreeMap<String, TensorRecord>>,
}

impl Ledger {
    pub(super) fn memory(&self) -> MemoryUse {
        MemoryUse {
            mapped_bytes: self.mapped.load(Relaxed),
            owned_bytes: self.owned.load(Relaxed),
            peak_owned_bytes: self.peak_owned.load(Relaxed),
            peak_bytes: self.peak_total.load(Relaxed),
        }
    }

    /// Enters a tensor; one that is handed out again replaces its record.
    pub(super) fn record(&self, record: TensorRecord) {
        // A map that a panicking thread held is still a map of whole records.
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(record.name.clone(), record);
    }

    pub(super) fn records(&self) -> Vec<TensorRecord> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.values().cloned().collect()
    }

    /// Counts `buffers` as held until the lease is dropped.
    pub(super) fn hold(self: &Arc<Self>, buffers: &[TensorBytes]) -> Lease {
        let (mut mapped, mut owned) = (0, 0);
        for buffer in buffers {
            match buffer {
                TensorBytes::Mapped { .. } => mapped += buffer.len() as u64,
                TensorBytes::Owned(_) => owned += buffer.len() as u64,
            }
        }
        self.mapped.fetch_add(mapped, Relaxed);
        let now = self.owned.fetch_add(owned, Relaxed) + owned;
        self.peak_owned.fetch_max(now, Relaxed);
        let now = self.total.fetch_add(mapped + owned, Relaxed) + mapped + owned;
        self.peak_total.fetch_max(now, Relaxed);
        Lease {
            ledger: Arc::clone(self),
            mapped,
            owned,
        }
    }
}

/// The right to hold a tensor's bytes.
pub(super) struct Lease {
    ledger: Arc<Ledger>,
    mapped: u64,
    owned: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ledger.mapped.fetch_sub(self.mapped, Relaxed);
        self.ledger.owned.fetch_sub(self.owned, Relaxed);
        self.ledger.total.fetch_sub(self.mapped + self.owned, Relaxed);
    }
}
