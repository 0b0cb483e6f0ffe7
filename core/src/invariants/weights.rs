//! Each weight is held in the bits that its layout declares, and is run as was negotiated.

use qbench_sdk::{
    DType,
    backend::{DequantizeWhen, Execution, ModelInfo},
};

use super::Violation;
use crate::checkpoint::TensorRecord;
use crate::results::WeightMemory;

/// A weight takes another number of bits than its layout declares.
pub const WEIGHT_BITS: &str = "weight_bits";
/// The backend's list of weights is not that of the weights it was given.
pub const WEIGHT_LIST: &str = "weight_list";
/// A weight is said to be run by a kernel that was not there when the backend was asked before loading.
pub const EXECUTION_CLAIM: &str = "execution_claim";

/// Share by which bytes may exceed those declared: rows and blocks padded to whole tiles.
pub(super) const BYTES_TOLERANCE: f64 = 0.02;
/// Bytes by which a single weight may exceed its declaration besides: a device's smallest allocation, for each of the
/// few buffers of a layout.
const WEIGHT_PADDING: u64 = 4096;

/// What the host knows of the weights that it handed out, beside what the model says of them.
///
/// # Errors
/// The violations of a list that does not fit: a weight of the model that was not handed out, or one of another shape
/// or layout.
pub fn join_weights(
    given: &[TensorRecord],
    info: &ModelInfo,
    compute: DType,
) -> Result<Vec<WeightMemory>, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut weights = Vec::new();
    for claimed in &info.weights {
        let Some(record) = given.iter().find(|record| record.name == claimed.name) else {
            let found = format!("the model lists `{}`, which it never asked for", claimed.name);
            violations.push(Violation::new(WEIGHT_LIST, found));
            continue;
        };
        if (record.rows, record.cols, &record.layout) != (claimed.rows, claimed.cols, &claimed.layout) {
            let found = format!(
                "the model lists `{}` as {} x {} in {}; it was given {} x {} in {}",
                claimed.name,
                claimed.rows,
                claimed.cols,
                claimed.layout,
                record.rows,
                record.cols,
                record.layout
            );
            violations.push(Violation::new(WEIGHT_LIST, found));
            continue;
        }
        let (least_bytes, declared_bytes) = declared(record, &claimed.execution, compute);
        weights.push(WeightMemory {
            name: record.name.clone(),
            rows: record.rows,
            cols: record.cols,
            dtype: record.source.to_string(),
            quantised: record.quantised,
            layout: record.layout.clone(),
            least_bytes,
            declared_bytes,
            held_bytes: claimed.bytes,
            execution: claimed.execution.to_string(),
        });
    }
    for record in given.iter().filter(|record| record.quantised) {
        if !info.weights.iter().any(|claimed| claimed.name == record.name) {
            let found = format!("the model asked for `{}` and does not list it", record.name);
            violations.push(Violation::new(WEIGHT_LIST, found));
        }
    }
    if violations.is_empty() {
        Ok(weights)
    } else {
        Err(violations)
    }
}

/// Fewest and most bytes that a weight may take.
fn declared(record: &TensorRecord, execution: &Execution, compute: DType) -> (u64, u64) {
    const DENSE: &str = "qbench.dense/1";
    let elements = (record.rows * record.cols) as u64;
    let as_dtype = |dtype: DType| elements * dtype.size() as u64;
    if let Execution::Dequantize {
        to,
        when: DequantizeWhen::Load,
    } = execution
    {
        return (record.bytes.min(as_dtype(*to)), record.bytes.max(as_dtype(*to)));
    }
    if record.layout != DENSE {
        return (record.bytes, record.bytes);
    }
    // A vector is small, and often held in f32 whatever the precision.
    let widest = if record.rows == 1 { DType::F32 } else { compute };
    (
        record.bytes.min(as_dtype(compute)),
        record.bytes.max(as_dtype(compute)).max(as_dtype(widest)),
    )
}

/// Each weight takes the bits that its layout declares.
pub fn weight_bits(weights: &[WeightMemory]) -> Vec<Violation> {
    let wrong = |weight: &&WeightMemory| {
        let held = weight.held_bytes as f64;
        let most = weight.declared_bytes as f64 * (1.0 + BYTES_TOLERANCE) + WEIGHT_PADDING as f64;
        let least = weight.least_bytes as f64 * (1.0 - BYTES_TOLERANCE);
        !(least..=most).contains(&held)
    };
    let mut wrong = weights.iter().filter(wrong);
    let Some(first) = wrong.next() else {
        return Vec::new();
    };
    let others = match wrong.count() {
        0 => String::new(),
        count => format!(", and {count} more weights are off"),
    };
    vec![Violation::new(
        WEIGHT_BITS,
        format!(
            "`{}` takes {:.3} bits a weight, its layout {} declares {:.3}{others}",
            first.name,
            first.held_bits(),
            first.layout,
            first.declared_bits()
        ),
    )]
}

/// A layout that was to be turned into floats is not run by a kernel after all; `negotiated` has an answer for each
/// layout kind.
pub fn execution_claims(negotiated: &[(String, Execution)], info: &ModelInfo) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (kind, before) in negotiated {
        if matches!(before, Execution::Native { .. }) {
            continue;
        }
        let same_kind = negotiated
            .iter()
            .filter(|(other, _)| other == kind)
            .any(|(_, execution)| matches!(execution, Execution::Native { .. }));
        let native = info
            .weights
            .iter()
            .find(|weight| weight.layout == *kind && matches!(weight.execution, Execution::Native { .. }));
        if let Some(weight) = native.filter(|_| !same_kind) {
            violations.push(Violation::new(
                EXECUTION_CLAIM,
                format!(
                    "`{}` is said to run as `{}`; asked before loading, the backend answered `{before}` for {kind}",
                    weight.name, weight.execution
                ),
            ));
        }
    }
    violations.dedup();
    violations
}

#[cfg(test)]
mod tests {
    use qbench_sdk::backend::WeightInfo;

    use super::*;

    const NF4: &str = "qbench.block-codebook/1";

    /// 64 × 64 weights in 4 bits with a scale a block of 64: 2048 + 256 + 64 bytes.
    fn given() -> TensorRecord {
        TensorRecord {
            name: "w".to_owned(),
            rows: 64,
            cols: 64,
            source: DType::BF16,
            source_bytes: 8192,
            quantised: true,
            layout: NF4.to_owned(),
            bytes: 2368,
            bits_per_weight: 4.625,
            quantize_seconds: 0.0,
        }
    }

    fn claimed(bytes: u64, execution: Execution) -> ModelInfo {
        ModelInfo {
            weights: vec![WeightInfo {
                name: "w".to_owned(),
                rows: 64,
                cols: 64,
                layout: NF4.to_owned(),
                bytes,
                execution,
            }],
            ..ModelInfo::default()
        }
    }

    fn native() -> Execution {
        Execution::Native {
            kernel: "k".to_owned(),
        }
    }

    fn bits(bytes: u64, execution: Execution) -> Vec<Violation> {
        let weights = join_weights(&[given()], &claimed(bytes, execution), DType::BF16).unwrap();
        weight_bits(&weights)
    }

    #[test]
    fn bits_are_those_of_the_layout() {
        assert_eq!(bits(2368, native()), []);
        assert_eq!(bits(2368 + WEIGHT_PADDING, native()), []);
        let found = bits(8192, native());
        assert!(
            found[0].found.contains("takes 16.000 bits a weight")
                && found[0].found.contains("declares 4.625"),
            "{found:?}"
        );
        assert_eq!(bits(1000, native()).len(), 1, "too few bytes to hold it");
    }

    #[test]
    fn a_dense_copy_that_is_declared_is_none_that_is_hidden() {
        let openly = Execution::Dequantize {
            to: DType::BF16,
            when: DequantizeWhen::Load,
        };
        assert_eq!(bits(8192, openly), []);
    }

    #[test]
    fn dense_weights_are_held_in_the_type_of_the_checkpoint_or_the_run() {
        let dense = |bytes, compute| {
            let record = TensorRecord {
                layout: "qbench.dense/1".to_owned(),
                bytes: 8192,
                ..given()
            };
            let mut info = claimed(bytes, native());
            info.weights[0].layout.clone_from(&record.layout);
            weight_bits(&join_weights(&[record], &info, compute).unwrap()).len()
        };
        assert_eq!((dense(16_384, DType::F32), dense(8192, DType::F32)), (0, 0));
        assert_eq!((dense(8192, DType::BF16), dense(16_384, DType::BF16)), (0, 1));
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused() {
        let mut info = claimed(2368, native());
        info.weights[0].layout = "qbench.dense/1".to_owned();
        let found = join_weights(&[given()], &info, DType::BF16).unwrap_err();
        assert!(
            found[0]
                .found
                .contains("it was given 64 x 64 in qbench.block-codebook/1"),
            "{found:?}"
        );
        info.weights[0].name = "other".to_owned();
        let found = join_weights(&[given()], &info, DType::BF16).unwrap_err();
        assert_eq!(
            found.len(),
            2,
            "one that it never asked for, one that it does not list: {found:?}"
        );
    }

    #[test]
    fn a_kernel_that_was_not_negotiated_is_no_kernel() {
        let fallback = Execution::Dequantize {
            to: DType::BF16,
            when: DequantizeWhen::Forward,
        };
        let negotiated = |execution: &Execution| vec![(NF4.to_owned(), execution.clone())];
        let info = claimed(2368, native());
        assert_eq!(execution_claims(&negotiated(&native()), &info), []);
        assert_eq!(execution_claims(&negotiated(&fallback), &info).len(), 1);
        assert_eq!(
            execution_claims(&negotiated(&fallback), &claimed(2368, fallback.clone())),
            []
        );
    }
}
