//! The bridge between safe traits and the objects of the ABI.
//!
//! For each trait there are two adapters: *export* wraps an implementation as an ABI object, *import* wraps an ABI
//! object as an implementation. Plugins export schemes and backends, the host exports weights; each side imports the
//! other's. Every exported entry is guarded: a panic becomes an error and never crosses the boundary.

mod backend;
mod convert;
pub(crate) mod root;
mod scheme;
pub(crate) mod services;
mod weights;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use qbench_abi::AbiResult;

use crate::{Error, Result, error::to_abi};

/// Runs `body`, which is implemented by somebody else, and turns a panic into an error.
fn guard<T>(body: impl FnOnce() -> Result<T>) -> AbiResult<T> {
    to_abi(catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Err(Error::Panic(message))
    }))
}
