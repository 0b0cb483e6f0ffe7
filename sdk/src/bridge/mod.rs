//! The bridge between safe traits and the objects of the ABI.
//!
//! For each trait there are two adapters: *export* wraps an implementation as an ABI object, *import* wraps an ABI
//! object as an implementation. Plugins export schemes and backends, the host exports weights; each side imports the
//! other's. Every exported entry that can fail is guarded: a panic becomes an error and never crosses the boundary. (One in
//! an entry that cannot fail ends the process, by abi_stable's own guard.)

mod backend;
pub(crate) mod c;
mod convert;
mod cuda_kernel;
mod extension;
pub(crate) mod root;
mod scheme;
pub(crate) mod services;
mod weights;

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
};

use qbench_abi::AbiResult;

use crate::{
    Error, Result,
    error::to_abi,
    log::{self, Level},
};

/// Runs `body`, which is implemented by somebody else, and turns a panic into an error.
fn guard<T>(body: impl FnOnce() -> Result<T>) -> AbiResult<T> {
    to_abi(catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Error::Panic(message(payload)))))
}

/// What a panic said. Any other payload is leaked: to drop it could panic anew, outside of the guard.
pub(crate) fn message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast::<&str>().map_or_else(
            |payload| {
                std::mem::forget(payload);
                "a panic without a message".to_owned()
            },
            |text| (*text).to_owned(),
        ),
    }
}

/// An implementation that is exported: it is dropped by whoever holds the object, so its `Drop` is guarded as well.
struct Exported<T: ?Sized>(ManuallyDrop<Box<T>>);

impl<T: ?Sized> Exported<T> {
    fn new(value: Box<T>) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T: ?Sized> std::ops::Deref for Exported<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> std::ops::DerefMut for Exported<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized> Drop for Exported<T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped here, once, and never touched again.
        let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { ManuallyDrop::drop(&mut self.0) }));
        if let Err(payload) = dropped {
            let text = message(payload);
            log::log(
                Level::Error,
                "sdk",
                &format!("panicked while it was dropped: {text}"),
            );
        }
    }
}
