//! Where and in what a model computes.

use qbench_sdk::{DType, Result};
use tch::{Device, Kind, Tensor};

use crate::{device, error::Named, gpu::Gpu, native, options::KernelChoice, tensors::kind};

/// A device, a precision, and the kernels that go with them.
pub(crate) struct Context {
    pub(crate) device: Device,
    pub(crate) precision: DType,
    pub(crate) threads: usize,
    /// Our kernels, on a GPU that runs them.
    pub(crate) gpu: Option<Gpu>,
}

impl Context {
    pub(crate) fn new(
        device: Device,
        precision: DType,
        threads: usize,
        kernels: KernelChoice,
    ) -> Result<Self> {
        native::count_cpu_memory();
        let gpu = match device {
            Device::Cuda(ordinal) => {
                native::set_cuda_device(ordinal)?;
                // The first tensor starts the device's context, which kernels are loaded into.
                let _ = Tensor::f_zeros([1], (Kind::Float, device)).op("zeros")?;
                match own_kernels(device, kernels)? {
                    Some(capability) => Some(Gpu::new(ordinal, precision, capability)?),
                    None => None,
                }
            }
            _ => None,
        };
        Ok(Self {
            device,
            precision,
            threads,
            gpu,
        })
    }

    /// Torch's name of the precision.
    pub(crate) fn kind(&self) -> Kind {
        kind(self.precision)
    }

    /// The compute capability that our kernels run on, where they are used.
    pub(crate) fn own_kernels(&self) -> Option<(i32, i32)> {
        self.gpu.as_ref().map(Gpu::capability)
    }

    /// To be called before anything else in a thread: torch's number of threads and current device belong to threads.
    pub(crate) fn enter(&self) -> Result<()> {
        tch::set_num_threads(self.threads as i32);
        match self.device {
            Device::Cuda(ordinal) => native::set_cuda_device(ordinal),
            _ => Ok(()),
        }
    }
}

/// The compute capability of a GPU on which our kernels are to be used, if they are.
pub(crate) fn own_kernels(device: Device, kernels: KernelChoice) -> Result<Option<(i32, i32)>> {
    /// The oldest that they run on: bf16 on tensor cores.
    const OLDEST: i32 = 8;
    match kernels {
        KernelChoice::Torch => Ok(None),
        KernelChoice::Own => Ok(device::capability(device)?.filter(|(major, _)| *major >= OLDEST)),
    }
}
