//! Texts between C and Rust.

use std::ffi::{CStr, CString, c_char, c_void};

use super::types::{Status, Text};
use crate::{Error, Result};

/// Longest text that is taken from a plugin in one call.
const MAX_TEXT: usize = 64 << 20;

/// What a plugin writes in one call.
#[derive(Default)]
pub(super) struct Sink {
    bytes: Vec<u8>,
    overflowed: bool,
}

unsafe extern "C" fn append(context: *mut c_void, text: *const c_char, bytes: usize) {
    // SAFETY: the context is the sink that `Sink::text` was called on, which outlives the call into the plugin and is
    // not looked at meanwhile; the plugin calls from one thread at a time, as the interface says.
    let sink = unsafe { &mut *context.cast::<Sink>() };
    if text.is_null() || bytes > MAX_TEXT - sink.bytes.len() {
        sink.overflowed = true;
        return;
    }
    // SAFETY: the plugin says that so many bytes are there.
    sink.bytes
        .extend_from_slice(unsafe { std::slice::from_raw_parts(text.cast(), bytes) });
}

impl Sink {
    /// The C side of the sink, for one call.
    pub(super) fn text(&mut self) -> Text {
        Text {
            context: std::ptr::from_mut(self).cast(),
            write: Some(append),
        }
    }

    /// What was written.
    pub(super) fn finish(self, what: &str) -> Result<String> {
        if self.overflowed {
            return Err(Error::Internal(format!(
                "{what}: more than {MAX_TEXT} bytes, or a null pointer"
            )));
        }
        String::from_utf8(self.bytes).map_err(|_| Error::Internal(format!("{what} is not UTF-8")))
    }
}

/// Calls `function` with an error text, and makes an error of its status.
pub(super) fn checked(name: &str, function: impl FnOnce(*const Text) -> Status) -> Result<()> {
    let mut sink = Sink::default();
    let text = sink.text();
    let status = function(&raw const text);
    if status == 0 {
        return Ok(());
    }
    let mut message = String::from_utf8_lossy(&sink.bytes).trim().to_owned();
    if message.is_empty() {
        message = format!("`{name}` returned status {status} without saying why");
    }
    Err(match status {
        3 => Error::InvalidArgument(message),
        5 => Error::NotFound(message),
        8 => Error::OutOfMemory(message),
        12 => Error::Unsupported(message),
        _ => Error::Internal(message),
    })
}

/// A text that the plugin keeps.
///
/// # Safety
/// `pointer` is null or points to a text with a final zero byte.
pub(super) unsafe fn read(pointer: *const c_char, what: &str) -> Result<String> {
    if pointer.is_null() {
        return Err(Error::InvalidArgument(format!("{what} is a null pointer")));
    }
    // SAFETY: as the caller says.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str()
        .map(str::to_owned)
        .map_err(|_| Error::InvalidArgument(format!("{what} is not UTF-8")))
}

/// A text for the plugin.
pub(super) fn owned(text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Error::InvalidArgument(format!("a zero byte in `{}`", text.escape_debug())))
}
