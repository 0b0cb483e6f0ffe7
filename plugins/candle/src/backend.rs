//! The sdk's backend.

use qbench_architectures::{ARCHITECTURES, DecoderModel};
use qbench_sdk::{
    Backend, CudaKernel, DType, Error, Layout, Model, Result,
    backend::{BackendInfo, DeviceInfo, Execution, LoadRequest},
    log::{Level, log},
};

use crate::{
    driver,
    execution::{execution, execution_with_kernel},
    gpu::Gpu,
    ops::CudaOps,
};

/// Runs decoders on NVIDIA GPUs. Without state: a device belongs to its model.
pub struct CandleBackend;

fn check(compute: DType) -> Result<()> {
    if compute.is_float() {
        Ok(())
    } else {
        Err(Error::Unsupported(format!(
            "precision {compute}; known: f32, f16, bf16"
        )))
    }
}

impl Backend for CandleBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "candle".to_owned(),
            summary: "decoders on NVIDIA GPUs: candle, cuBLAS, our own kernels".to_owned(),
            library: "candle-core 0.11.1".to_owned(),
            architectures: ARCHITECTURES.map(str::to_owned).to_vec(),
            precisions: vec![DType::F32, DType::F16, DType::BF16],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        driver::devices()
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        check(compute)?;
        Ok(execution(layout, compute, driver::find(device)?.capability))
    }

    fn negotiate_with_kernel(
        &self,
        device: &str,
        layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        check(compute)?;
        let capability = driver::find(device)?.capability;
        let (execution, why) = execution_with_kernel(layout, compute, capability, Some(kernel));
        if let Some(why) = why {
            log(Level::Warning, "candle", &why);
        }
        Ok(execution)
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        check(request.compute)?;
        let gpu = Gpu::open(driver::find(request.device)?)?;
        let ops = CudaOps::new(gpu, request.compute, request.threads)?;
        Ok(Box::new(DecoderModel::load(
            request.config_json,
            request.weights.as_ref(),
            ops,
        )?))
    }
}
