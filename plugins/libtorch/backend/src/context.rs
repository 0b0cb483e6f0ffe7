//! Where and in what a model computes.

use qbench_sdk::{DType, Error, Result};
use tch::{Device, Kind, Tensor};

use crate::{device, error::Named, gpu::Gpu, native, options::KernelChoice, tensors::kind};

/// A device, a precision, and the kernels that go with them.
pub(crate) struct Context {
    pub(crate) means: Means,
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
        let means = Means::new(device, kernels)?;
        let gpu = match device {
            Device::Cuda(ordinal) => {
                native::set_cuda_device(ordinal)?;
                // The first tensor starts the device's context, which kernels are loaded into.
                let _ = Tensor::f_zeros([1], (Kind::Float, device)).op("zeros")?;
                match means.own {
                    Some(_) => Some(Gpu::new(ordinal, precision)?),
                    None => None,
                }
            }
            _ => None,
        };
        Ok(Self {
            means,
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

    /// To be called before anything else in a thread: torch's number of threads and current device belong to threads.
    pub(crate) fn enter(&self) -> Result<()> {
        tch::set_num_threads(self.threads as i32);
        match self.device {
            Device::Cuda(ordinal) => native::set_cuda_device(ordinal),
            _ => Ok(()),
        }
    }
}

/// A device, and what layouts are run with there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) device: Device,
    /// The compute capability that our kernels run on, where they are used.
    pub(crate) own: Option<(i32, i32)>,
    /// Whether int8 products have the constant of bitsandbytes' CPU code.
    pub(crate) bitsandbytes_constant: bool,
}

impl Means {
    /// # Errors
    /// A choice that is not for this device.
    pub(crate) fn new(device: Device, kernels: KernelChoice) -> Result<Self> {
        /// The oldest GPU that our kernels run on: bf16 on tensor cores.
        const OLDEST: i32 = 8;
        let own = match kernels {
            KernelChoice::Own => device::capability(device)?.filter(|(major, _)| *major >= OLDEST),
            KernelChoice::BitsandbytesCpu if device != Device::Cpu => {
                return Err(Error::InvalidArgument(
                    "kernels=bitsandbytes-cpu is for device cpu: the constant that it brings in is that of bitsandbytes' CPU code, on CUDA the library has the right one"
                        .to_owned(),
                ));
            }
            KernelChoice::Torch | KernelChoice::BitsandbytesCpu => None,
        };
        Ok(Self {
            device,
            own,
            bitsandbytes_constant: kernels == KernelChoice::BitsandbytesCpu,
        })
    }
}
