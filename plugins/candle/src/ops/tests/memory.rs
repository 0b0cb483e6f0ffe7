//! Memory, and its end.

use super::ops;
use qbench_architectures::Ops;
use qbench_sdk::DType;

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn memory_is_counted_and_its_end_is_said() {
    let ops = ops(DType::BF16);
    let before = ops.memory().unwrap();
    let buffer = ops.gpu.buffer(100 << 20).unwrap();
    let during = ops.memory().unwrap();
    drop(buffer);
    ops.synchronize().unwrap();
    let after = ops.memory().unwrap();
    assert!(
        during.allocated >= before.allocated + (100 << 20),
        "{before:?} {during:?}"
    );
    assert!(
        after.peak_allocated >= during.allocated && after.allocated == before.allocated,
        "{after:?}"
    );
    ops.reset_peak_memory().unwrap();
    assert_eq!(ops.memory().unwrap().peak_allocated, before.allocated);
    let error = ops.gpu.buffer(1 << 45).err().unwrap();
    assert!(
        matches!(&error, qbench_sdk::Error::OutOfMemory(text) if text.contains("asked for") && text.contains("free")),
        "{error}"
    );
    // The device goes on.
    assert!(ops.gpu.buffer(1 << 20).is_ok());
}
