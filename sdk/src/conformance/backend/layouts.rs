//! Layouts as a backend runs them.

use std::sync::Arc;

use super::{
    BackendSubject, Cache, Opened, Outcome, Storage, Tokens, distance, forward, near, on_device, tolerance,
};
use crate::{
    DType, Layout, Options, Weights,
    backend::Execution,
    conformance::{
        RandomCodebook,
        golden::{BATCH, GoldenWeights, ids, mask},
        report::{Broken, Verdict},
    },
};

/// Relative error that activations of eight bits may cause in the tiny model's logits: some 3 % a projection.
const EIGHT_BIT_ACTIVATIONS: f64 = 0.2;

/// A projection whose layout is asked about.
const PROJECTION: &str = "model.layers.0.mlp.gate_proj.weight";

fn logits(opened: &Opened, storage: Storage, precision: DType) -> Result<Vec<f32>, Broken> {
    let (ids, mask) = (ids(), mask());
    let mut model = opened.load(storage, precision, 2)?;
    let tokens = Tokens {
        ids: &ids,
        mask: &mask,
        batch: BATCH,
        cache: Cache::None,
    };
    Ok(forward(model.as_mut(), tokens)?.logits)
}

/// Runs a storage, and the same values densely. Gives how it ran and how far apart the logits are, or `None` when the
/// backend said that it cannot.
fn compare(
    opened: &Opened,
    what: &str,
    storage: Storage,
    precision: DType,
) -> Result<Option<(Execution, f64)>, Broken> {
    let tensor = GoldenWeights::new(storage.clone()).tensor(PROJECTION)?;
    let layout = tensor.layout().clone();
    let said = opened.backend.negotiate(&opened.device, &layout, precision)?;
    let loaded = opened.load(storage.clone(), precision, 2);
    if let Execution::Unsupported { reason } = &said {
        return match loaded {
            Err(_) if !reason.trim().is_empty() => Ok(None),
            Err(_) => Err(Broken(format!("{what}: unsupported without a reason"))),
            Ok(_) => Err(Broken(format!(
                "{what}: said to be unsupported, but it is loaded"
            ))),
        };
    }
    check_account(what, loaded?.as_ref(), &layout, &said)?;
    let found = logits(opened, storage.clone(), precision)?;
    let truth = logits(opened, Storage::Decoded(Box::new(storage)), precision)?;
    Ok(Some((said, distance(&found, &truth, &mask()))))
}

/// Whether the model runs its projections as was said before it was loaded.
fn check_account(
    what: &str,
    model: &dyn crate::Model,
    layout: &Layout,
    said: &Execution,
) -> Result<(), Broken> {
    let info = model.info()?;
    let Some(weight) = info.weights.iter().find(|weight| weight.name == PROJECTION) else {
        return Err(Broken(format!(
            "{what}: the model's account leaves `{PROJECTION}` out"
        )));
    };
    if weight.layout != layout.kind() || (weight.rows, weight.cols) != (layout.rows(), layout.cols()) {
        return Err(Broken(format!(
            "{what}: stored as {} {} x {}, listed as {} {} x {}",
            layout.kind(),
            layout.rows(),
            layout.cols(),
            weight.layout,
            weight.rows,
            weight.cols
        )));
    }
    // Whether a scheme has a product of its own is found out at load.
    let product = weight.execution == Execution::SchemeMatmul && matches!(said, Execution::Dequantize { .. });
    if weight.execution != *said && !product {
        return Err(Broken(format!(
            "{what}: said to run as `{said}`, listed as `{}`",
            weight.execution
        )));
    }
    Ok(())
}

pub(super) fn runs_any_codebook(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let mut kernels = Vec::new();
        let mut tried = 0;
        for block in [32, 64, 128, 48] {
            for order in ["low", "high"] {
                for blocks in ["row", "flat"] {
                    for scale in ["f32", "coded"] {
                        let text =
                            format!("block={block},order={order},blocks={blocks},scale={scale},seed={block}");
                        let scheme = Arc::new(RandomCodebook::open(&Options::parse(&text)?)?);
                        let storage = Storage::Scheme(scheme);
                        let Some((said, distance)) = compare(opened, &text, storage, opened.precision)?
                        else {
                            return Err(Broken(format!(
                                "{text}: unsupported; dequantising is always possible"
                            )));
                        };
                        near(&text, distance, tolerance(opened.precision))?;
                        tried += 1;
                        let said = said.to_string();
                        if !kernels.contains(&said) {
                            kernels.push(said);
                        }
                    }
                }
            }
        }
        Ok((Verdict::Pass, format!("{tried} variants: {}", kernels.join("; "))))
    })
}

pub(super) fn negotiation_is_true(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let precision = opened.precision;
        let mut found = Vec::new();
        for (kind, storage, activations) in [
            ("qbench.dense/1", Storage::AsIs, false),
            ("qbench.int8-vectorwise/1", Storage::Int8, true),
            ("qbench.scaled-fp8/1", Storage::Fp8, true),
            ("a custom layout", Storage::Foreign, false),
        ] {
            let Some((said, distance)) = compare(opened, kind, storage, precision)? else {
                found.push(format!("{kind}: unsupported"));
                continue;
            };
            let native = matches!(said, Execution::Native { .. });
            let limit = if activations && native {
                EIGHT_BIT_ACTIVATIONS
            } else {
                tolerance(precision)
            };
            near(kind, distance, limit)?;
            if activations && native && distance == 0.0 {
                return Err(Broken(format!(
                    "{kind}: claims `{said}`, but leaves activations as they are"
                )));
            }
            found.push(format!("{kind}: {said}"));
        }
        Ok((Verdict::Pass, found.join("; ")))
    })
}
