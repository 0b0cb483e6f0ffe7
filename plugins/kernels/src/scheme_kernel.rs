//! `qbench.cuda-kernel/1`: a scheme's own kernel, which turns its stored weights into floats. The sdk's `cuda_kernel` is
//! the contract.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_int, c_void},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::{
    driver::sys::CUdevice_attribute as DeviceAttribute,
    nvrtc::{
        result::{self, NvrtcError},
        sys,
    },
};
use qbench_sdk::{
    CudaKernel, DType, Layout,
    backend::{DequantizeWhen, Execution},
    cuda_kernel::{KernelSource, LaunchGeometry},
};

use crate::{
    CUdeviceptr, CUstream, Error, Function, Module, Result, driver::device_attribute,
    libraries::open_compiler,
};

/// What the contract has NVRTC told, besides the device.
const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

/// How a layout is run whose scheme brings `kernel`, where a backend without it would turn the weight into `precision` at
/// load; and why not, where the kernel cannot be compiled here.
pub fn execution(kernel: &CudaKernel, precision: DType) -> (Execution, Option<String>) {
    let at_load = Execution::Dequantize {
        to: precision,
        when: DequantizeWhen::Load,
    };
    if kernel.entry(precision).is_none() {
        return (at_load, None);
    }
    if let (KernelSource::CudaC(_), Err(reason)) = (&kernel.source, open_compiler()) {
        let why = format!(
            "CUDA kernel `{}` is not used, weights are turned into {precision} at load: {reason}",
            kernel.name
        );
        return (at_load, Some(why));
    }
    let execution = Execution::SchemeKernel {
        kernel: kernel.name.clone(),
        to: precision,
    };
    (execution, None)
}

/// The schemes' kernels that were compiled so far, in one context: weights of one layout share theirs.
#[derive(Debug, Default)]
pub struct SchemeKernels {
    /// By the source's text.
    modules: Mutex<HashMap<String, Arc<Module>>>,
}

/// A kernel that writes one type, for weights of one layout.
#[derive(Debug)]
pub struct SchemeKernel {
    function: Function,
    geometry: LaunchGeometry,
    constants: Vec<i64>,
    cols: usize,
    _module: Arc<Module>,
}

impl SchemeKernels {
    /// Compiles a kernel, unless its source was compiled before, and finds the entry that writes `dtype`.
    ///
    /// # Errors
    /// [`Error::Source`] with the compiler's words, and for a description that does not fit the layout;
    /// [`Error::Unsupported`] where there is no compiler; [`Error::Driver`].
    pub fn load(&self, kernel: &CudaKernel, dtype: DType, layout: &Layout) -> Result<SchemeKernel> {
        let about = |what: String| Error::Source(format!("CUDA kernel `{}`: {what}", kernel.name));
        kernel
            .validate(layout.buffers().len())
            .and_then(|()| kernel.geometry.grid(layout.rows(), layout.cols()).map(|_| ()))
            .map_err(|error| Error::Source(error.to_string()))?;
        let entry = kernel
            .entry(dtype)
            .ok_or_else(|| about(format!("it has no entry that writes {dtype}")))?;
        let module = self.module(&kernel.source).map_err(|error| match error {
            Error::Source(log) => about(log),
            other => other,
        })?;
        let function = module
            .function(entry)
            .map_err(|error| about(format!("no function `{entry}` with C linkage ({error})")))?;
        Ok(SchemeKernel {
            function,
            geometry: kernel.geometry,
            constants: kernel.constants.clone(),
            cols: layout.cols(),
            _module: module,
        })
    }

    fn module(&self, source: &KernelSource) -> Result<Arc<Module>> {
        let (KernelSource::CudaC(text) | KernelSource::Ptx(text)) = source;
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(text) {
            return Ok(module.clone());
        }
        let zero_free = CString::new(text.as_str()).map_err(|error| Error::Source(error.to_string()))?;
        let module = Arc::new(match source {
            KernelSource::CudaC(_) => match compile(&zero_free, capability()?)? {
                Image::Binary(bytes) => Module::load(&bytes)?,
                Image::Ptx(text) => Module::load_ptx(&text)?,
            },
            KernelSource::Ptx(_) => Module::load_ptx(&zero_free)?,
        });
        modules.insert(text.clone(), module.clone());
        Ok(module)
    }
}

impl SchemeKernel {
    /// Writes `rows` of the weight to `out`.
    ///
    /// # Safety
    /// `buffers` are the addresses of the layout's buffers in their order, each on at least 16 bytes, 0 for an empty one.
    /// `out` has room for `rows` × the layout's columns of the entry's type, on at least 16 bytes. The kernel does what
    /// the contract asks of it.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub unsafe fn run(
        &self,
        rows: Range<usize>,
        buffers: &[CUdeviceptr],
        out: CUdeviceptr,
        stream: CUstream,
    ) -> Result<()> {
        if rows.is_empty() || self.cols == 0 {
            return Ok(());
        }
        let [x, y] = self
            .geometry
            .grid(rows.len(), self.cols)
            .map_err(|error| Error::Unsupported(error.to_string()))?;
        let mut values = arguments(out, &rows, self.cols, buffers, &self.constants);
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        // SAFETY: as the caller promises; each argument has 8 bytes, in the contract's order.
        unsafe {
            self.function.launch(
                [x, y, 1],
                self.geometry.threads,
                self.geometry.shared_bytes,
                stream,
                &mut pointers,
            )
        }
    }
}

/// What a kernel is passed, in the contract's order.
fn arguments(
    out: CUdeviceptr,
    rows: &Range<usize>,
    cols: usize,
    buffers: &[CUdeviceptr],
    constants: &[i64],
) -> Vec<u64> {
    let mut values = vec![out, rows.start as u64, rows.len() as u64, cols as u64];
    values.extend(buffers);
    values.extend(constants.iter().map(|constant| constant.cast_unsigned()));
    values
}

/// What NVRTC gave.
#[derive(Debug)]
enum Image {
    /// Code for the device at hand.
    Binary(Vec<u8>),
    /// Assembly for the driver, where the device is newer than the compiler.
    Ptx(CString),
}

/// `10 · major + minor` of the compute capability of the GPU of the current context.
fn capability() -> Result<c_int> {
    let major = device_attribute(DeviceAttribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = device_attribute(DeviceAttribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok((10 * major + minor) as c_int)
}

fn refused(call: &'static str) -> impl Fn(NvrtcError) -> Error {
    move |error| Error::Compiler {
        call,
        status: format!("{:?}", error.0),
    }
}

/// Compiles CUDA C++ for a compute capability.
fn compile(source: &CStr, capability: c_int) -> Result<Image> {
    open_compiler().map_err(Error::Unsupported)?;
    // SAFETY: opening the library runs only its own initialisers.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Unsupported("NVRTC's library cannot be opened".to_owned()));
    }
    let target = target(&known_architectures()?, capability)?;
    let program = Program(result::create_program(source, None).map_err(refused("nvrtcCreateProgram"))?);
    let options: Vec<&str> = OPTIONS.into_iter().chain([target.as_str()]).collect();
    // SAFETY: the program lives.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    if let Err(error) = compiled {
        if error.0 != sys::nvrtcResult::NVRTC_ERROR_COMPILATION {
            return Err(refused("nvrtcCompileProgram")(error));
        }
        return Err(Error::Source(format!("it does not compile:\n{}", program.log()?)));
    }
    program.image(target.contains("=sm_"))
}

/// What is compiled for: the device itself where the compiler knows it, else the newest older one, as assembly.
fn target(known: &[c_int], capability: c_int) -> Result<String> {
    if known.contains(&capability) {
        return Ok(format!("--gpu-architecture=sm_{capability}"));
    }
    known
        .iter()
        .filter(|known| **known <= capability)
        .max()
        .map(|older| format!("--gpu-architecture=compute_{older}"))
        .ok_or_else(|| {
            Error::Unsupported(format!(
                "this NVRTC compiles for none of the GPUs up to compute capability {}.{}",
                capability / 10,
                capability % 10
            ))
        })
}

fn known_architectures() -> Result<Vec<c_int>> {
    let mut count = 0;
    // SAFETY: a place for a number.
    unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) }
        .result()
        .map_err(refused("nvrtcGetNumSupportedArchs"))?;
    let mut known = vec![0; count.max(0) as usize];
    // SAFETY: room for so many numbers.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }
        .result()
        .map_err(refused("nvrtcGetSupportedArchs"))?;
    Ok(known)
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is ours and is not used again.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    /// The compiler's words.
    fn log(&self) -> Result<String> {
        // SAFETY: the program lives.
        let log = unsafe { result::get_program_log(self.0) }.map_err(refused("nvrtcGetProgramLog"))?;
        let bytes: Vec<u8> = log
            .into_iter()
            .map(|byte| byte as u8)
            .take_while(|byte| *byte != 0)
            .collect();
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    fn image(&self, binary: bool) -> Result<Image> {
        if binary {
            let mut size = 0;
            // SAFETY: the program was compiled; a place for a number.
            unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) }
                .result()
                .map_err(refused("nvrtcGetCUBINSize"))?;
            let mut image = vec![0_u8; size];
            // SAFETY: room for so many bytes.
            unsafe { sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()) }
                .result()
                .map_err(refused("nvrtcGetCUBIN"))?;
            return Ok(Image::Binary(image));
        }
        // SAFETY: the program was compiled.
        let text = unsafe { result::get_ptx(self.0) }.map_err(refused("nvrtcGetPTX"))?;
        let bytes: Vec<u8> = text
            .into_iter()
            .map(|byte| byte as u8)
            .take_while(|byte| *byte != 0)
            .collect();
        Ok(Image::Ptx(CString::new(bytes).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const DOUBLES: &CStr = c"extern \"C\" __global__ void twice(float *out) { out[threadIdx.x] *= 2; }";

    #[test]
    fn arguments_are_in_the_contracts_order() {
        let values = arguments(0x100, &(3..7), 9, &[0x200, 0], &[-1, 5]);
        assert_eq!(values, [0x100, 3, 4, 9, 0x200, 0, u64::MAX, 5]);
    }

    #[test]
    fn the_device_itself_is_compiled_for_where_the_compiler_knows_it() {
        assert_eq!(target(&[80, 90, 100], 90).unwrap(), "--gpu-architecture=sm_90");
        assert_eq!(
            target(&[80, 90, 100], 103).unwrap(),
            "--gpu-architecture=compute_100"
        );
        let error = target(&[80, 90], 75).unwrap_err().to_string();
        assert!(error.contains("7.5"), "{error}");
    }

    #[test]
    fn a_kernel_without_the_entry_is_not_used() {
        let kernel = CudaKernel {
            name: "twice".to_owned(),
            source: KernelSource::Ptx("some".to_owned()),
            entries: BTreeMap::from([(DType::F32, "twice".to_owned())]),
            geometry: LaunchGeometry {
                threads: 32,
                tile_rows: 1,
                tile_cols: 32,
                shared_bytes: 0,
            },
            constants: Vec::new(),
        };
        let at_load = Execution::Dequantize {
            to: DType::BF16,
            when: DequantizeWhen::Load,
        };
        assert_eq!(execution(&kernel, DType::BF16), (at_load, None));
        // PTX needs no compiler.
        let scheme_kernel = Execution::SchemeKernel {
            kernel: "twice".to_owned(),
            to: DType::F32,
        };
        assert_eq!(execution(&kernel, DType::F32), (scheme_kernel, None));
        let in_cuda = CudaKernel {
            source: KernelSource::CudaC(DOUBLES.to_str().unwrap().to_owned()),
            ..kernel
        };
        let (found, why) = execution(&in_cuda, DType::F32);
        match (open_compiler(), found) {
            (Ok(()), Execution::SchemeKernel { .. }) => assert_eq!(why, None),
            (
                Err(reason),
                Execution::Dequantize {
                    when: DequantizeWhen::Load,
                    ..
                },
            ) => {
                let why = why.unwrap();
                assert!(why.contains("`twice`") && why.contains(&reason), "{why}");
            }
            (compiler, found) => panic!("{compiler:?} {found:?}"),
        }
    }

    /// Needs no GPU, but the compiler.
    #[test]
    fn source_is_compiled_or_refused_with_the_compilers_words() {
        if open_compiler().is_err() {
            return;
        }
        assert!(
            matches!(compile(DOUBLES, 90).unwrap(), Image::Binary(bytes) if bytes.starts_with(b"\x7fELF"))
        );
        let Image::Ptx(text) = compile(DOUBLES, 999).unwrap() else {
            panic!("a device that no compiler knows yet");
        };
        assert!(text.to_str().unwrap().contains(".visible .entry twice"));
        let error = compile(c"extern \"C\" __global__ void broken() { int x = nothing; }", 90).unwrap_err();
        assert!(
            matches!(&error, Error::Source(log) if log.contains("does not compile") && log.contains("nothing")),
            "{error}"
        );
    }
}
