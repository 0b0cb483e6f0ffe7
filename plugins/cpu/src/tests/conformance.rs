//! The conformance kit on this backend, and on this backend with one fault each, which the kit must find.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use qbench_sdk::{
    Backend, CallContext, DType, Layout, Matrix, MatrixMut, Model, Options, Result, StoredTensor, Weights,
    backend::{
        BackendInfo, Cache, DeviceInfo, Execution, ForwardOutput, LoadRequest, Memory, ModelInfo, TokenBatch,
    },
    conformance::{Verdict, check_backend},
    layout::NibbleOrder,
};

use crate::{CpuBackend, Kernels};

/// The backend as a run opens it.
fn cpu() -> CpuBackend {
    CpuBackend::new(Kernels::from_options(&Options::none()).unwrap())
}

#[test]
fn the_backend_conforms() {
    let reference = check_backend(|_| Ok(CpuBackend::new(Kernels::Reference)), None);
    for report in [check_backend(|_| Ok(cpu()), None), reference] {
        report.assert_passed();
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.verdict == Verdict::Pass),
            "{report}"
        );
    }
}

#[test]
fn each_fault_is_found_by_its_case() {
    for case in [
        "describes-itself",
        "finds-devices",
        "matches-transformers",
        "batch-equals-single",
        "pooled-is-the-mean",
        "cache-continues",
        "deterministic-as-declared",
        "runs-any-codebook",
        "negotiation-is-true",
        "memory-plausible",
        "errors-not-panics",
    ] {
        let report = check_backend(move |_| Ok(Faulty(case)), None);
        let finding = report
            .findings
            .iter()
            .find(|finding| finding.case == case)
            .unwrap();
        assert_eq!(finding.verdict, Verdict::Fail, "{case}\n{report}");
    }
}

/// The backend with the fault that the case of that name is there to find.
struct Faulty(&'static str);

impl Backend for Faulty {
    fn info(&self) -> BackendInfo {
        let mut info = cpu().info();
        if self.0 == "describes-itself" {
            info.precisions.clear();
        }
        info
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        match self.0 {
            "finds-devices" => Ok(Vec::new()),
            _ => cpu().devices(),
        }
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        match (self.0, layout) {
            ("negotiation-is-true", Layout::Custom(_)) => Ok(Execution::Native {
                kernel: "whatever you like".to_owned(),
            }),
            _ => cpu().negotiate(device, layout, compute),
        }
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        let weights: Arc<dyn Weights> = match self.0 {
            "runs-any-codebook" => Arc::new(HighNibblesFirst(request.weights.clone())),
            _ => request.weights.clone(),
        };
        Ok(Box::new(FaultyModel {
            model: cpu().load(LoadRequest { weights, ..request })?,
            fault: self.0,
        }))
    }
}

struct FaultyModel {
    model: Box<dyn Model>,
    fault: &'static str,
}

static PASSES: AtomicU32 = AtomicU32::new(0);

impl Model for FaultyModel {
    fn info(&self) -> Result<ModelInfo> {
        self.model.info()
    }

    fn forward(&mut self, mut batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        if self.fault == "errors-not-panics" {
            assert!(batch.ids.iter().all(|id| *id < 64), "an index out of bounds");
        }
        let length = batch.length;
        if self.fault == "cache-continues" && batch.cache == Cache::Continue {
            // Forgets what came before.
            batch.cache = Cache::Start;
            batch.mask = &batch.mask[batch.mask.len() - length..];
        }
        self.model.forward(batch, output)?;
        let change = |values: &mut [f32], factor: f32| values.iter_mut().for_each(|value| *value *= factor);
        if let Some((_, logits)) = &mut output.logits {
            match self.fault {
                "matches-transformers" => change(logits, 1.001),
                "batch-equals-single" if batch.batch == 1 => change(logits, 1.001),
                "deterministic-as-declared" => logits[0] += PASSES.fetch_add(1, Ordering::Relaxed) as f32,
                _ => {}
            }
        }
        if self.fault == "pooled-is-the-mean" {
            output
                .pooled
                .iter_mut()
                .for_each(|pooled| change(pooled.data, 1.001));
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        self.model.synchronize()
    }

    fn memory(&self) -> Result<Memory> {
        let mut memory = self.model.memory()?;
        if self.fault == "memory-plausible" {
            memory.peak_allocated = memory.allocated - 1;
        }
        Ok(memory)
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        self.model.reset_peak_memory()
    }
}

/// Weights that pass for having the upper nibble first.
struct HighNibblesFirst(Arc<dyn Weights>);

impl Weights for HighNibblesFirst {
    fn names(&self) -> Result<Vec<String>> {
        self.0.names()
    }

    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        let tensor = self.0.tensor(name)?;
        let mut layout = tensor.layout().clone();
        if let Layout::BlockCodebook(shape) = &mut layout {
            shape.order = NibbleOrder::HighFirst;
        }
        Ok(Box::new(Relabelled { tensor, layout }))
    }
}

struct Relabelled {
    tensor: Box<dyn StoredTensor>,
    layout: Layout,
}

impl StoredTensor for Relabelled {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.tensor.buffer(index)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        self.tensor.dequantize(first_row, out, context)
    }

    fn matmul(&self, input: Matrix<'_>, output: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        self.tensor.matmul(input, output, context)
    }
}
