//! What the C library's allocator holds, all threads together.
//!
//! The resident memory of a process says too much: freed memory stays with the process, up to 64 MB for each thread that
//! allocated, and even `malloc_trim` leaves that at the end of a thread's heap.

/// Bytes of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allocator {
    /// Handed out.
    pub(super) used: u64,
    /// Freed and kept for later.
    pub(super) free: u64,
}

/// The allocator now.
///
/// # Errors
/// The C library is not glibc, or says something else than expected.
pub(super) fn read() -> Result<Allocator, String> {
    let report = report()?;
    parse(&report).ok_or_else(|| "malloc_info says nothing of the memory in use".to_owned())
}

#[cfg(target_env = "gnu")]
fn report() -> Result<String, String> {
    use std::{ffi::c_char, ptr, slice};

    let failed = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
    let (mut text, mut length): (*mut c_char, usize) = (ptr::null_mut(), 0);
    // SAFETY: the stream is closed before the two are read, and they live longer than it.
    let stream = unsafe { libc::open_memstream(&raw mut text, &raw mut length) };
    if stream.is_null() {
        return Err(failed("open_memstream"));
    }
    // SAFETY: the stream is open, and closed here once.
    let (written, closed) = unsafe { (libc::malloc_info(0, stream), libc::fclose(stream)) };
    if text.is_null() {
        return Err(failed("malloc_info"));
    }
    // SAFETY: after closing, `text` points to `length` bytes, which are ours to free and are not used after that.
    let report = unsafe {
        let bytes = slice::from_raw_parts(text.cast::<u8>(), length);
        let report = String::from_utf8_lossy(bytes).into_owned();
        libc::free(text.cast());
        report
    };
    if written == 0 && closed == 0 {
        Ok(report)
    } else {
        Err(failed("malloc_info"))
    }
}

#[cfg(not(target_env = "gnu"))]
fn report() -> Result<String, String> {
    Err("this C library does not tell what its allocator holds".to_owned())
}

/// Reads the totals at the report's end, after those of each heap.
fn parse(report: &str) -> Option<Allocator> {
    let totals = report.rsplit("</heap>").next()?;
    let size = |element: &str| -> Option<u64> {
        let (_, rest) = totals.split_once(element)?;
        let (_, rest) = rest.split_once("size=\"")?;
        rest.split('"').next()?.parse().ok()
    };
    let free = size("<total type=\"fast\"")? + size("<total type=\"rest\"")?;
    let heaps = size("<system type=\"current\"")?;
    let mapped = size("<total type=\"mmap\"")?;
    Some(Allocator {
        used: heaps.checked_sub(free)? + mapped,
        free,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_come_after_the_heaps() {
        let report = r#"<malloc version="1"><heap nr="0"><sizes></sizes>
            <total type="fast" count="0" size="1"/><total type="rest" count="1" size="2"/>
            <system type="current" size="3"/></heap>
            <total type="fast" count="0" size="10"/><total type="rest" count="1" size="200"/>
            <total type="mmap" count="1" size="4000"/><system type="current" size="1000"/>
            <system type="max" size="9"/></malloc>"#;
        // 1000 in heaps without 210 that are free, and 4000 mapped.
        let expected = Allocator {
            used: 4790,
            free: 210,
        };
        assert_eq!(parse(report), Some(expected));
        assert_eq!(parse("<malloc/>"), None);
    }
}
