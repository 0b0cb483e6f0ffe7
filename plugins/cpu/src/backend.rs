//! The sdk's backend and model.

use qbench_architectures::{ARCHITECTURES, DecoderModel};
use qbench_sdk::{
    Backend, DType, Error, Layout, Model, Result,
    backend::{
        BackendInfo, DeviceInfo, Execution, ForwardOutput, LoadRequest, Memory, ModelInfo, TokenBatch,
    },
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{
    kernels::Kernels,
    linear::execution,
    machine::{DEVICE, device},
    ops::CpuOps,
    parallel,
};

/// Up to this many tokens a pass's loops are so short that the threads stay awake between them.
const FEW_TOKENS: usize = 8;

/// Runs decoders on the CPU. Threads belong to the models.
pub struct CpuBackend {
    kernels: Kernels,
}

impl CpuBackend {
    /// A backend that multiplies with these kernels.
    pub fn new(kernels: Kernels) -> Self {
        Self { kernels }
    }
}

fn check(device: &str, compute: DType) -> Result<()> {
    if device != DEVICE {
        return Err(Error::NotFound(format!("device `{device}`; known: {DEVICE}")));
    }
    if !compute.is_float() {
        return Err(Error::Unsupported(format!(
            "precision {compute}; known: f32, f16, bf16"
        )));
    }
    Ok(())
}

impl Backend for CpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "cpu".to_owned(),
            summary: "the reference: decoders on the CPU, sums in f32".to_owned(),
            library: format!("qbench-cpu-kernels {}", env!("CARGO_PKG_VERSION")),
            architectures: ARCHITECTURES.map(str::to_owned).to_vec(),
            precisions: vec![DType::F32, DType::F16, DType::BF16],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![device()])
    }

    /// For a custom layout the answer is `dequantize`; a scheme that has a product of its own is used for it, which
    /// shows only when a weight is loaded ([`ModelInfo::weights`]).
    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        check(device, compute)?;
        Ok(execution(layout, compute, self.kernels))
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        check(request.device, request.compute)?;
        let pool = ThreadPoolBuilder::new()
            .num_threads(request.threads.max(1))
            .thread_name(|index| format!("qbench-cpu-{index}"))
            .build()
            .map_err(|error| Error::Internal(format!("start {} threads: {error}", request.threads)))?;
        let decoder = pool.install(|| {
            DecoderModel::load(
                request.config_json,
                request.weights.as_ref(),
                CpuOps::new(request.compute, self.kernels),
            )
        })?;
        Ok(Box::new(CpuModel { decoder, pool }))
    }
}

/// A decoder and the threads that it runs on.
struct CpuModel {
    decoder: DecoderModel<CpuOps>,
    pool: ThreadPool,
}

impl Model for CpuModel {
    fn info(&self) -> Result<ModelInfo> {
        // What it may keep depends on the threads that it runs on.
        self.pool.install(|| self.decoder.info())
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        let decoder = &mut self.decoder;
        let few = batch.ids.len() <= FEW_TOKENS;
        self.pool.install(|| {
            if few {
                parallel::awake(|| decoder.forward(batch, output))
            } else {
                decoder.forward(batch, output)
            }
        })
    }

    fn synchronize(&mut self) -> Result<()> {
        self.decoder.synchronize()
    }

    fn memory(&self) -> Result<Memory> {
        self.decoder.memory()
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        self.decoder.reset_peak_memory()
    }
}
