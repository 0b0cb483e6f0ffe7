//! The sdk's backend and model.

use qbench_architectures::{ARCHITECTURES, DecoderModel};
use qbench_sdk::{
    Backend, CudaKernel, DType, Error, Layout, Model, Options, Result,
    backend::{
        BackendInfo, DeviceInfo, Execution, ForwardOutput, LoadRequest, Memory, ModelInfo, TokenBatch,
    },
    log::{Level, log},
};

use crate::{
    context::{Context, Means},
    device,
    linear::{execution, execution_with_kernel},
    native,
    ops::TorchOps,
    options::KernelChoice,
};

/// Runs decoders on libtorch. Without state: a device belongs to its model.
pub struct TorchBackend {
    kernels: KernelChoice,
}

impl TorchBackend {
    /// A backend with the user's options: `kernels`, `own`, `torch` or `bitsandbytes-cpu`.
    ///
    /// # Errors
    /// An unknown option or value.
    pub fn from_options(options: &Options) -> Result<Self> {
        Ok(Self {
            kernels: KernelChoice::from_options(options)?,
        })
    }
}

fn check(compute: DType) -> Result<()> {
    if compute.is_float() {
        Ok(())
    } else {
        Err(Error::Unsupported(format!(
            "precision {compute}; known: f32, f16, bf16"
        )))
    }
}

impl Backend for TorchBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "libtorch".to_owned(),
            summary: "decoders on libtorch, on the CPU and NVIDIA GPUs".to_owned(),
            library: format!("libtorch {}, tch 0.24.0", native::version()),
            architectures: ARCHITECTURES.map(str::to_owned).to_vec(),
            precisions: vec![DType::F32, DType::F16, DType::BF16],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        device::devices()
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        check(compute)?;
        let means = Means::new(device::find(device)?, self.kernels)?;
        Ok(execution(layout, compute, means))
    }

    fn negotiate_with_kernel(
        &self,
        device: &str,
        layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        check(compute)?;
        let means = Means::new(device::find(device)?, self.kernels)?;
        let (execution, why) = execution_with_kernel(layout, compute, means, Some(kernel));
        if let Some(why) = why {
            log(Level::Warning, "libtorch", &why);
        }
        Ok(execution)
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        check(request.compute)?;
        let device = device::find(request.device)?;
        let context = Context::new(device, request.compute, request.threads.max(1), self.kernels)?;
        context.enter()?;
        let ops = TorchOps::new(context)?;
        tch::no_grad(|| DecoderModel::load(request.config_json, request.weights.as_ref(), ops))
            .map(|decoder| Box::new(TorchModel(decoder)) as Box<dyn Model>)
    }
}

/// A decoder that keeps no record for gradients.
struct TorchModel(DecoderModel<TorchOps>);

impl Model for TorchModel {
    fn info(&self) -> Result<ModelInfo> {
        self.0.info()
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        tch::no_grad(|| self.0.forward(batch, output))
    }

    fn synchronize(&mut self) -> Result<()> {
        self.0.synchronize()
    }

    fn device_seconds(&mut self) -> Result<Option<f64>> {
        self.0.device_seconds()
    }

    fn memory(&self) -> Result<Memory> {
        self.0.memory()
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        self.0.reset_peak_memory()
    }
}
