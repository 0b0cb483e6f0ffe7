//! A backend holds what the layouts of its weights declare and no more: no hidden dense copy, no leak, no false count.

use super::Violation;
use super::weights::BYTES_TOLERANCE;
use crate::results::{CellMemory, Probe};

/// More bytes are held than the layouts declare (or fewer than hold the weights).
pub const HELD_BYTES: &str = "held_bytes";
/// The system counts more bytes than host and backend say that they hold.
pub const MEMORY_CLAIM: &str = "memory_claim";
/// Each pass leaves more memory behind.
pub const MEMORY_LEAK: &str = "memory_leak";

/// Bytes that any model may hold besides: names, shapes, what an allocator rounds up.
const BOOKKEEPING_BYTES: u64 = 1 << 20;
/// Bytes of a process that nobody claims: stacks, the allocator's own, what libraries allocate for themselves. A hidden
/// buffer that is smaller stays hidden.
const PROCESS_SLACK_BYTES: u64 = 16 << 20;
/// The same for each thread of the backend.
const THREAD_SLACK_BYTES: u64 = 1 << 20;
/// The same on a GPU: the driver's context with the code of all kernels.
const CONTEXT_BYTES: u64 = 3 << 29;
/// Bytes by which a pass may grow the backend's allocations without being called a leak.
const LEAK_BYTES_A_PASS: i64 = 16 << 10;
/// The same for the process, whose count moves in pages and whose allocator gives memory back late.
const PROCESS_LEAK_BYTES_A_PASS: i64 = 512 << 10;

/// What is held after loading and after the passes does not exceed what the layouts declare by more than 2 % and the
/// declared workspace; and weights are not held in less than they need.
pub fn held_bytes(memory: &CellMemory) -> Vec<Violation> {
    let limit = |workspace: u64| with_tolerance(memory.declared_bytes) + workspace + BOOKKEEPING_BYTES;
    let host = memory.host_mapped_bytes + memory.host_owned_bytes;
    let mut violations = Vec::new();
    let moments = [
        ("after loading", host + memory.backend.loaded),
        ("after the passes", host + memory.backend.after),
    ];
    for (moment, held) in moments {
        let limit = limit(memory.workspace_bytes);
        if held > limit {
            violations.push(Violation::new(
                HELD_BYTES,
                format!(
                    "{} are held {moment}; the layouts declare {} and workspace {}, hence at most {}",
                    megabytes(held),
                    megabytes(memory.declared_bytes),
                    megabytes(memory.workspace_bytes),
                    megabytes(limit)
                ),
            ));
            break;
        }
        let least = (memory.least_bytes as f64 * (1.0 - BYTES_TOLERANCE)) as u64;
        if held + BOOKKEEPING_BYTES < least {
            violations.push(Violation::new(
                HELD_BYTES,
                format!(
                    "{} are said to be held {moment}; the weights alone need {}",
                    megabytes(held),
                    megabytes(memory.least_bytes)
                ),
            ));
            break;
        }
    }
    violations
}

/// The system does not count more than host and backend say. `threads` are the backend's; `on_host` tells whether the
/// system's count is that of the process or of a GPU.
pub fn memory_claim(memory: &CellMemory, threads: usize, on_host: bool) -> Option<Violation> {
    let [loaded, after] = memory.system?;
    let slack = if on_host {
        PROCESS_SLACK_BYTES + threads as u64 * THREAD_SLACK_BYTES
    } else {
        CONTEXT_BYTES
    };
    // Mapped files are no private memory of the process, and tensors that the host holds are in no GPU.
    let host = if on_host { memory.host_owned_bytes } else { 0 };
    let reserved = memory.backend_reserved_bytes.unwrap_or_default();
    let claimed = |backend: u64| host + backend.max(reserved);
    let moments = [
        ("after loading", claimed(memory.backend.loaded), loaded),
        ("after the passes", claimed(memory.backend.after), after),
    ];
    moments
        .into_iter()
        .find(|(_, claimed, counted)| *counted > with_tolerance(*claimed) + slack)
        .map(|(moment, claimed, counted)| {
            Violation::new(
                MEMORY_CLAIM,
                format!(
                    "{moment} host and backend say that they hold {}, {} counts {}",
                    megabytes(claimed),
                    memory.system_measured_by,
                    megabytes(counted)
                ),
            )
        })
}

/// Passes over the same batch leave nothing behind. The median over the passes counts: a thread that works for the first
/// time may allocate its scratch in any of them, and keeps it rightly.
pub fn memory_leak(probe: &Probe) -> Option<Violation> {
    let witnesses = [
        (
            &probe.backend_growth_bytes,
            LEAK_BYTES_A_PASS,
            "the backend's allocator",
        ),
        (
            &probe.system_growth_bytes,
            PROCESS_LEAK_BYTES_A_PASS,
            "the system",
        ),
    ];
    witnesses.into_iter().find_map(|(growth, allowed, counted_by)| {
        let median = lower_median(growth).filter(|&median| median > allowed)?;
        let found = format!(
            "equal passes, {} of them, left {} behind each, as {counted_by} counts",
            growth.len(),
            megabytes(median as u64)
        );
        Some(Violation::new(MEMORY_LEAK, found))
    })
}

/// At least half of the values are no smaller and as many no larger; of two such values the smaller.
fn lower_median(values: &[i64]) -> Option<i64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn with_tolerance(bytes: u64) -> u64 {
    (bytes as f64 * (1.0 + BYTES_TOLERANCE)) as u64
}

fn megabytes(bytes: u64) -> String {
    format!("{:.3} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Held;

    /// 100 MB of weights, of which the host holds 40 MB; the rest is the backend's.
    fn memory(loaded: u64, after: u64, system: u64) -> CellMemory {
        CellMemory {
            host_owned_bytes: 40_000_000,
            backend: Held {
                loaded,
                peak: after,
                after,
            },
            declared_bytes: 100_000_000,
            least_bytes: 100_000_000,
            system: Some([system; 2]),
            system_measured_by: "RssAnon".to_owned(),
            ..CellMemory::default()
        }
    }

    #[test]
    fn a_hidden_copy_and_missing_bytes_are_seen() {
        assert_eq!(held_bytes(&memory(60_000_000, 62_000_000, 0)), []);
        let found = held_bytes(&memory(60_000_000, 64_000_000, 0));
        assert!(
            found[0].found.contains("104.000 MB are held after the passes"),
            "{found:?}"
        );
        let declared = CellMemory {
            workspace_bytes: 4_000_000,
            ..memory(60_000_000, 64_000_000, 0)
        };
        assert_eq!(held_bytes(&declared), []);
        let found = held_bytes(&memory(0, 0, 0));
        assert!(
            found[0].found.contains("40.000 MB are said to be held"),
            "{found:?}"
        );
    }

    #[test]
    fn the_process_is_a_witness_within_its_slack() {
        // 100 MB · 1.02 + 16 MiB + 2 MiB = 120.87 MB.
        assert_eq!(
            memory_claim(&memory(60_000_000, 60_000_000, 120_800_000), 2, true),
            None
        );
        let found = memory_claim(&memory(60_000_000, 60_000_000, 121_000_000), 2, true).unwrap();
        assert!(found.found.contains("RssAnon counts 121.000 MB"), "{found}");
        // 60 MB · 1.02 + 1.5 GiB = 1671.8 MB on a GPU.
        assert_eq!(
            memory_claim(&memory(60_000_000, 60_000_000, 1_671_000_000), 2, false),
            None
        );
        assert!(memory_claim(&memory(60_000_000, 60_000_000, 1_672_000_000), 2, false).is_some());
    }

    #[test]
    fn growth_over_equal_passes_is_a_leak() {
        let probe = |backend: &[i64], system: &[i64]| Probe {
            passes: 9,
            backend_growth_bytes: backend.to_vec(),
            system_growth_bytes: system.to_vec(),
            ..Probe::default()
        };
        assert_eq!(memory_leak(&probe(&[16 << 10; 8], &[512 << 10; 8])), None);
        let found = memory_leak(&probe(&[1_000_000; 8], &[])).unwrap();
        assert!(
            found.found.contains("8 of them, left 1.000 MB behind each"),
            "{found}"
        );
        let found = memory_leak(&probe(&[0; 8], &[10_000_000; 8])).unwrap();
        assert!(
            found
                .found
                .contains("10.000 MB behind each, as the system counts"),
            "{found}"
        );
        assert_eq!(memory_leak(&Probe::default()), None);
    }

    #[test]
    fn scratch_that_a_thread_allocates_once_is_no_leak() {
        let probe = Probe {
            backend_growth_bytes: vec![0, 0, 0, 1 << 20, 0, 0, 2 << 20, 0],
            ..Probe::default()
        };
        assert_eq!(memory_leak(&probe), None);
    }
}
