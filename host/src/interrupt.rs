//! Ctrl-C and SIGTERM: the worker under way is stopped, everything finished is kept.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

static NUMBER: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Takes the signals over for the rest of the process; a second one ends it at once.
///
/// # Errors
/// The system refuses.
pub fn install() -> std::io::Result<()> {
    let came = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Actions run in the order of their registration: the first signal finds `came` unset and only leaves a note.
        flag::register_conditional_default(signal, came.clone())?;
        flag::register(signal, came.clone())?;
        flag::register_usize(signal, NUMBER.clone(), signal as usize)?;
    }
    Ok(())
}

/// The number of the signal that came, if one did.
pub fn pending() -> Option<u8> {
    u8::try_from(NUMBER.load(Ordering::Relaxed))
        .ok()
        .filter(|&number| number != 0)
}
