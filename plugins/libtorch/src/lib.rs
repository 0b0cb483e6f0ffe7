//! The libtorch backend, as the host sees it: a thin plugin that is loaded everywhere. It finds libtorch, opens it by its
//! path, and then opens `libtorch_backend.so`, which lies beside this library and does the work.
//!
//! Where there is no libtorch, the plugin says so in place of its devices; nothing needs `LD_LIBRARY_PATH`.

mod implementation;
mod install;
mod open;

use std::sync::OnceLock;

use qbench_sdk::{
    Backend, CudaKernel, DType, Layout, Model, Options, Result,
    backend::{BackendInfo, DeviceInfo, Execution, LoadRequest},
    export_plugin,
};

/// The version of libtorch that tch 0.24 is for; others have other symbols.
const TORCH: &str = "2.11";

/// Passes every call to the backend in `libtorch_backend.so`, which is loaded when a device is first asked for.
pub struct LibtorchBackend {
    options: Options,
    opened: OnceLock<Box<dyn Backend>>,
}

impl LibtorchBackend {
    /// A backend with the user's options, which the implementation checks.
    ///
    /// # Errors
    /// Options that the implementation does not take, and why it cannot be asked.
    pub fn from_options(options: &Options) -> Result<Self> {
        let backend = Self {
            options: options.clone(),
            opened: OnceLock::new(),
        };
        if !options.is_empty() {
            backend.open()?;
        }
        Ok(backend)
    }

    fn open(&self) -> Result<&dyn Backend> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened.as_ref());
        }
        let backend = implementation::loaded()?.backend(&self.options)?;
        Ok(self.opened.get_or_init(|| backend).as_ref())
    }
}

impl Backend for LibtorchBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "libtorch".to_owned(),
            summary: "decoders on libtorch, on the CPU and NVIDIA GPUs".to_owned(),
            // Without opening anything: a library that is not the right one is found out with the devices.
            library: match install::find() {
                Ok(install) => format!("libtorch {}, tch 0.24.0", install.version),
                Err(_) => format!("libtorch {TORCH} (not found), tch 0.24.0"),
            },
            architectures: ["llama", "mistral"].map(str::to_owned).to_vec(),
            precisions: vec![DType::F32, DType::F16, DType::BF16],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut devices = self.open()?.devices()?;
        let found = implementation::loaded()?;
        if let Some(cpu) = devices.iter_mut().find(|device| device.id == "cpu") {
            cpu.details = format!("{}; {}", cpu.details, found.describe());
        }
        Ok(devices)
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        self.open()?.negotiate(device, layout, compute)
    }

    fn negotiate_with_kernel(
        &self,
        device: &str,
        layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        self.open()?
            .negotiate_with_kernel(device, layout, compute, kernel)
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        self.open()?.load(request)
    }
}

export_plugin!(backends: [LibtorchBackend::from_options]);
