//! The conformance kit: does a scheme or a backend keep its contract?
//!
//! In a test of the plugin's own:
//!
//! ```ignore
//! #[test]
//! fn conforms() {
//!     qbench_sdk::conformance::check_scheme(MyScheme::open, &Options::none()).assert_passed();
//! }
//! ```
//!
//! `qbench plugin check FILE` runs the same cases on a built plugin, each in a process of its own, where a crash or an
//! endless loop is a finding too.

mod backend;
mod golden;
mod guarded;
mod random;
mod random_codebook;
mod report;
mod scheme;

#[cfg(test)]
mod tests;

pub use backend::{BackendSubject, backend_cases};
pub use random_codebook::RandomCodebook;
pub use report::{Case, Finding, Report, Verdict};
pub use scheme::{SchemeSubject, scheme_cases};

use crate::{AlignedBuffer, Backend, CallContext, Matrix, Options, QuantScheme, Result};

/// Runs all cases on the scheme that `open` opens, with `options` beside those that a case sets itself.
pub fn check_scheme<S: QuantScheme>(
    open: impl Fn(&Options) -> Result<S> + 'static,
    options: &Options,
) -> Report {
    let subject = SchemeSubject::new(
        move |options| Ok(Box::new(open(options)?) as Box<dyn QuantScheme>),
        options.clone(),
    );
    Report::of(scheme_cases(), &subject)
}

/// The buffers that a scheme fills for a matrix, in the order of its layout: what a test compares with numbers by hand.
///
/// # Errors
/// Those of the scheme's `layout` and `quantize`.
pub fn stored_buffers(scheme: &impl QuantScheme, matrix: Matrix<'_>) -> Result<Vec<AlignedBuffer>> {
    let layout = scheme.layout(matrix.rows(), matrix.cols(), matrix.dtype())?;
    let specs = layout.buffers();
    let mut buffers: Vec<AlignedBuffer> = specs
        .iter()
        .map(|spec| AlignedBuffer::zeroed(spec.bytes))
        .collect();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
    scheme.quantize(matrix, &layout, &mut slices, CallContext::single_threaded())?;
    Ok(buffers)
}

/// Runs all cases on the backend that `open` opens, on `device` or else its first one.
pub fn check_backend<B: Backend>(
    open: impl Fn(&Options) -> Result<B> + 'static,
    device: Option<&str>,
) -> Report {
    let subject = BackendSubject::new(
        move |options| Ok(Box::new(open(options)?) as Box<dyn Backend>),
        device.map(str::to_owned),
    );
    Report::of(backend_cases(), &subject)
}
