//! Buffers between guards, so that a write past their ends is seen.

use super::report::Broken;
use crate::AlignedBuffer;

/// Bytes before and after a buffer. Safe code cannot reach them; C and `unsafe` can.
const GUARD: usize = 4096;

/// What the guards hold.
const CANARY: u8 = 0xa5;

/// A 64-byte aligned buffer between two guards.
pub(super) struct Guarded {
    memory: AlignedBuffer,
    length: usize,
}

impl Guarded {
    pub(super) fn filled(length: usize, value: u8) -> Self {
        let mut memory = AlignedBuffer::zeroed(length + 2 * GUARD);
        memory.fill(CANARY);
        memory[GUARD..GUARD + length].fill(value);
        Self { memory, length }
    }

    pub(super) fn with(bytes: &[u8]) -> Self {
        let mut buffer = Self::filled(bytes.len(), 0);
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[GUARD..GUARD + self.length]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[GUARD..GUARD + self.length]
    }

    /// Whether both guards are as they were.
    pub(super) fn check(&self, what: &str) -> Result<(), Broken> {
        let changed = |guard: &[u8]| guard.iter().position(|byte| *byte != CANARY);
        let (before, after) = (&self.memory[..GUARD], &self.memory[GUARD + self.length..]);
        if let Some(at) = changed(after) {
            return Err(Broken(format!(
                "wrote past the end of {what}: byte {} of {}",
                self.length + at,
                self.length
            )));
        }
        match before.iter().rev().position(|byte| *byte != CANARY) {
            Some(at) => Err(Broken(format!(
                "wrote {} bytes before the start of {what}",
                at + 1
            ))),
            None => Ok(()),
        }
    }
}
