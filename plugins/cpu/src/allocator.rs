//! Counts the plugin's own allocations.
//!
//! A `.so` has an allocator of its own, so what is counted is exactly what this plugin allocates: not the host's
//! tensors, not another plugin's. Counters are relaxed: each is exact by itself, and they order nothing.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The system's allocator, counted.
pub(crate) struct CountingAllocator {
    live: AtomicU64,
    peak: AtomicU64,
}

// The test binary counts as well: its numbers include the tests' own memory.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// The counter of this plugin.
pub(crate) fn counter() -> &'static CountingAllocator {
    &ALLOCATOR
}

impl CountingAllocator {
    const fn new() -> Self {
        Self {
            live: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }
    }

    /// Bytes allocated now.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// Most bytes allocated at once since the last reset.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Starts a new peak from what is allocated now.
    pub(crate) fn reset_peak(&self) {
        self.peak.store(self.live(), Relaxed);
    }

    fn grew(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.peak.fetch_max(live, Relaxed);
    }

    fn shrank(&self, bytes: usize) {
        self.live.fetch_sub(bytes as u64, Relaxed);
    }
}

// SAFETY: every call goes to `System` with the caller's arguments, and its result is returned unchanged; the counters
// allocate nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc`.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            self.grew(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc_zeroed`.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            self.grew(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) };
        self.shrank(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `realloc`.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            match new_size.checked_sub(layout.size()) {
                Some(more) => self.grew(more),
                None => self.shrank(layout.size() - new_size),
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_up_and_down() {
        // A counter of its own: the global one sees the other tests.
        let counter = CountingAllocator::new();
        let layout = Layout::from_size_align(1000, 64).unwrap();
        // SAFETY: every block is allocated, resized and freed with the layout that it has at the time.
        unsafe {
            let first = counter.alloc(layout);
            let second = counter.alloc_zeroed(layout);
            assert_eq!((counter.live(), counter.peak()), (2000, 2000));
            let first = counter.realloc(first, layout, 3000);
            assert_eq!((counter.live(), counter.peak()), (4000, 4000));
            let first = counter.realloc(first, Layout::from_size_align(3000, 64).unwrap(), 500);
            assert_eq!((counter.live(), counter.peak()), (1500, 4000));
            counter.reset_peak();
            assert_eq!(counter.peak(), 1500);
            counter.dealloc(first, Layout::from_size_align(500, 64).unwrap());
            counter.dealloc(second, layout);
        }
        assert_eq!((counter.live(), counter.peak()), (0, 1500));
    }

    #[test]
    fn the_plugins_allocations_go_through_the_counter() {
        let bytes = 1 << 28;
        let block: Vec<u8> = std::hint::black_box(Vec::with_capacity(bytes));
        assert!(counter().live() >= bytes as u64 && counter().peak() >= bytes as u64);
        drop(block);
    }
}
