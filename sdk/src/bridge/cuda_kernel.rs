//! The extension `qbench.cuda-kernel/1` across the boundary, from both sides.

use qbench_abi::{
    AbiPlan, AbiResult, CUDA_KERNEL, CudaKernelRunner, CudaKernelRunner_Ref, CudaKernelSource,
    CudaKernelSource_Ref, DTypeCode, Extension,
    abi_stable::{
        prefix_type::WithMetadata,
        sabi_types::RRef,
        staticref,
        std_types::{RNone, ROption, RSome, RStr, RString},
    },
};

use super::{backend::ExportedBackend, convert, extension, guard};
use crate::{CudaKernel, DType, Layout, Result, backend::Execution, error::from_abi};

/// An exported object that may bring a kernel: a scheme or a tensor.
pub(super) trait BringsKernel: Sized {
    fn kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>>;
}

/// The table of an object type.
struct Source<T>(T);

impl<T: BringsKernel> Source<T> {
    staticref!(const TABLE: WithMetadata<CudaKernelSource> = WithMetadata::new(CudaKernelSource {
        kernel: Self::kernel,
    }));

    unsafe extern "C" fn kernel(instance: RRef<'_, ()>, plan: &AbiPlan) -> AbiResult<ROption<RString>> {
        // SAFETY: the instance that comes with this table was made from a `&T`.
        let object: &T = unsafe { instance.transmute_into_ref() };
        guard(|| {
            let layout = convert::plan_from_abi(plan)?;
            let Some(kernel) = object.kernel(&layout)? else {
                return Ok(RNone);
            };
            kernel.validate(layout.buffers().len())?;
            Ok(RSome(serde_json::to_string(&kernel)?.into()))
        })
    }
}

/// Answers a look-up on a scheme or tensor.
pub(super) fn source<'a, T: BringsKernel>(object: &'a T, id: RStr<'_>) -> ROption<Extension<'a>> {
    if id.as_str() == CUDA_KERNEL {
        let table = CudaKernelSource_Ref(Source::<T>::TABLE.as_prefix());
        RSome(extension::answer(object, table))
    } else {
        RNone
    }
}

/// Answers a look-up on a backend.
pub(super) fn runner<'a>(backend: &'a ExportedBackend, id: RStr<'_>) -> ROption<Extension<'a>> {
    struct Runner;
    impl Runner {
        staticref!(const TABLE: WithMetadata<CudaKernelRunner> =
            WithMetadata::new(CudaKernelRunner { negotiate }));
    }
    unsafe extern "C" fn negotiate(
        instance: RRef<'_, ()>,
        device: RStr<'_>,
        plan: &AbiPlan,
        compute: DTypeCode,
        kernel_json: RStr<'_>,
    ) -> AbiResult<RString> {
        // SAFETY: the instance that comes with this table was made from an `&ExportedBackend`.
        let backend: &ExportedBackend = unsafe { instance.transmute_into_ref() };
        guard(|| {
            let layout = convert::plan_from_abi(plan)?;
            let kernel: CudaKernel = serde_json::from_str(kernel_json.as_str())?;
            let execution = backend.0.negotiate_with_kernel(
                device.as_str(),
                &layout,
                DType::from_code(compute)?,
                &kernel,
            )?;
            Ok(serde_json::to_string(&execution)?.into())
        })
    }
    if id.as_str() == CUDA_KERNEL {
        RSome(extension::answer(
            backend,
            CudaKernelRunner_Ref(Runner::TABLE.as_prefix()),
        ))
    } else {
        RNone
    }
}

/// The kernel that an object of the other side brings for `layout`, checked.
pub(super) fn of<'a>(
    lookup: impl FnOnce(RStr<'static>) -> ROption<Extension<'a>>,
    layout: &Layout,
) -> Result<Option<CudaKernel>> {
    let answer = lookup(RStr::from(CUDA_KERNEL));
    let Some((table, instance)) = extension::find::<CudaKernelSource_Ref>(answer) else {
        return Ok(None);
    };
    let plan = convert::plan_to_abi(layout, 0)?;
    // SAFETY: the instance came with the table.
    let found = from_abi(unsafe { (table.kernel())(instance, &plan) })?;
    let Some(json) = found.into_option() else {
        return Ok(None);
    };
    let kernel: CudaKernel = serde_json::from_str(&json)?;
    kernel.validate(layout.buffers().len())?;
    Ok(Some(kernel))
}

/// How a backend of the other side would run `layout` with `kernel`; `None` where it runs no such kernels.
pub(super) fn negotiate<'a>(
    lookup: impl FnOnce(RStr<'static>) -> ROption<Extension<'a>>,
    device: &str,
    layout: &Layout,
    compute: DType,
    kernel: &CudaKernel,
) -> Result<Option<Execution>> {
    let answer = lookup(RStr::from(CUDA_KERNEL));
    let Some((table, instance)) = extension::find::<CudaKernelRunner_Ref>(answer) else {
        return Ok(None);
    };
    let plan = convert::plan_to_abi(layout, 0)?;
    let json = serde_json::to_string(kernel)?;
    // SAFETY: the instance came with the table.
    let answer = unsafe {
        (table.negotiate())(
            instance,
            RStr::from(device),
            &plan,
            compute.to_code(),
            RStr::from(json.as_str()),
        )
    };
    Ok(Some(serde_json::from_str(&from_abi(answer)?)?))
}
