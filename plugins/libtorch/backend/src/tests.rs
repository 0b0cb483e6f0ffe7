//! The backend as a whole: the conformance kit, and memory.

use qbench_sdk::{
    Backend, DType, Error, Options,
    conformance::{Verdict, check_backend},
};
use tch::{Device, Kind, Tensor};

use crate::{TorchBackend, native};

#[test]
fn the_backend_conforms() {
    let report = check_backend(TorchBackend::from_options, None);
    report.assert_passed();
    let all = report
        .findings
        .iter()
        .all(|finding| finding.verdict == Verdict::Pass);
    assert!(all, "{report}");
}

#[test]
fn memory_of_tensors_is_counted() {
    const BYTES: u64 = 1 << 28;
    native::count_cpu_memory();
    let tensor = Tensor::zeros([BYTES as i64 / 4], (Kind::Float, Device::Cpu));
    let during = native::cpu_memory();
    assert!(
        during.allocated >= BYTES && during.peak_allocated >= during.allocated,
        "{during:?}"
    );
    drop(tensor);
    // Other tests allocate at the same time, but far less.
    let after = native::cpu_memory();
    assert!(
        after.allocated < during.allocated - BYTES / 2 && after.peak_allocated >= BYTES,
        "{after:?}"
    );
    native::reset_cpu_peak();
    assert!(native::cpu_memory().peak_allocated < during.peak_allocated);
}

#[test]
fn a_precision_without_floats_is_refused() {
    let backend = TorchBackend::from_options(&Options::none()).unwrap();
    let layout = crate::test_support::MemoryTensor::dense(1, 1, DType::F32, &[0.0]).layout;
    let error = backend.negotiate("cpu", &layout, DType::I8).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    let info = backend.info();
    assert!(info.library.starts_with("libtorch 2.11."), "{}", info.library);
}
