//! Products in e4m3 by cuBLASLt, whose sums are f32.
//!
//! On Hopper the library multiplies each sum by the scales of its token and its row before it rounds. Where it does not
//! (other GPUs, a bias, rows that are no multiple of 16) or is slow at it (few tokens), sums go to memory that the caller lends, and `fp8_scale` does it.

use std::{
    collections::HashMap,
    ffi::c_void,
    mem::MaybeUninit,
    ptr,
    sync::{Mutex, PoisonError},
};

use cudarc::{
    cublas::sys::cublasOperation_t,
    cublaslt::{
        result::{self, CublasError},
        sys::{
            self, cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulMatrixScale_t as ScaleMode,
            cudaDataType,
        },
    },
    driver::sys::CUdevice_attribute as DeviceAttribute,
};

use crate::{
    CUdeviceptr, CUstream, Element, Error, Function, Module, Result,
    driver::{arguments, device_attribute, fatbin},
    fp8::{Activations, Fp8},
};

/// Bytes of scratch memory that the library is lent, as much as NVIDIA advises for Hopper.
pub const WORKSPACE: usize = 32 << 20;

/// Algorithms that the library is asked for; the first that it can run is taken.
const PROPOSALS: usize = 8;

/// Shapes that are remembered.
const MOST_PLANS: usize = 256;

/// Tokens up to which the algorithms that scale are slow: on an H200 40 µs where those without take 19 and our scaling 2.
const FEW_TOKENS: usize = 16;

const SCALE_THREADS: u32 = 256;

/// Whether a GPU of this compute capability multiplies e4m3 numbers.
pub fn runs_on(capability: (i32, i32)) -> bool {
    capability >= (8, 9)
}

/// How products are computed; the default is what backends take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Whether sums may stay in the tensor cores' own accumulators, of fewer bits than f32, all the way.
    pub fast: bool,
    /// Which of the library's proposals is taken, for measurements.
    pub proposal: usize,
}

/// cuBLASLt with the choices that it made, for one context.
#[derive(Debug)]
pub struct Product {
    library: Library,
    choice: Choice,
    /// Whether the library scales.
    hopper: bool,
    scale: [Function; 3],
    /// `None` for what the library cannot run.
    plans: Mutex<HashMap<Key, Option<Plan>>>,
    _module: Module,
}

/// Everything that a plan hangs on. `scaled` is who scales: the library, or we.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    pitch: usize,
    tokens: usize,
    out: Element,
    scaled: bool,
}

#[derive(Debug)]
struct Library(sys::cublasLtHandle_t);

// SAFETY: cuBLASLt's handle may be used from any thread.
unsafe impl Send for Library {}
// SAFETY: as above, also from several at once.
unsafe impl Sync for Library {}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is not used again.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn set<T>(&self, attribute: Attribute, value: &T) -> std::result::Result<(), CublasError> {
        // SAFETY: the description lives; the library copies a value of the attribute's type.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                ptr::from_ref(value).cast::<c_void>(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it is ours and is not used again.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

#[derive(Debug)]
struct Matrix(sys::cublasLtMatrixLayout_t);

impl Matrix {
    /// `columns` columns of `height` elements each, one after the other.
    fn new(kind: cudaDataType, height: usize, columns: usize) -> std::result::Result<Self, CublasError> {
        result::create_matrix_layout(kind, height as u64, columns as u64, height as i64).map(Self)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // SAFETY: it is ours and is not used again.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it is ours and is not used again.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// A product as the library is told, and the algorithm that it proposed. Its matrices are by columns: what is Wᵀ there is
/// our W, and its result by columns is ours by rows.
#[derive(Debug)]
struct Plan {
    description: Description,
    weight: Matrix,
    x: Matrix,
    out: Matrix,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: the library's descriptions are plain memory, used under a lock.
unsafe impl Send for Plan {}

fn refused(call: &'static str) -> impl Fn(CublasError) -> Error {
    move |error| Error::Blas {
        call,
        status: format!("{:?}", error.0),
    }
}

impl Plan {
    /// `None` where the library has no algorithm. `scales` stand for all that will be used.
    fn new(
        library: &Library,
        key: Key,
        choice: Choice,
        scales: CUdeviceptr,
    ) -> std::result::Result<Option<Self>, CublasError> {
        let out = match key.out {
            Element::F32 => cudaDataType::CUDA_R_32F,
            Element::F16 => cudaDataType::CUDA_R_16F,
            Element::BF16 => cudaDataType::CUDA_R_16BF,
        };
        let description = Description(result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cudaDataType::CUDA_R_32F,
        )?);
        description.set(
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            &cublasOperation_t::CUBLAS_OP_T,
        )?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &i8::from(choice.fast))?;
        if key.scaled {
            let mode = ScaleMode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
            for attribute in [
                Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
                Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
            ] {
                // A library from before CUDA 12.9 knows no such mode.
                if description.set(attribute, &mode).is_err() {
                    return Ok(None);
                }
            }
            // Algorithms are proposed for scales that are there.
            description.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scales)?;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scales)?;
        }
        let plan = Self {
            description,
            weight: Matrix::new(cudaDataType::CUDA_R_8F_E4M3, key.pitch, key.rows)?,
            x: Matrix::new(cudaDataType::CUDA_R_8F_E4M3, key.pitch, key.tokens)?,
            out: Matrix::new(out, key.rows, key.tokens)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        let preference = Preference(result::create_matmul_pref()?);
        let workspace = WORKSPACE;
        let mut proposals =
            [const { MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit() }; PROPOSALS];
        let mut count = 0;
        // SAFETY: all descriptions live; there is room for the proposals.
        let answer = unsafe {
            result::set_matmul_pref_attribute(
                preference.0,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast::<c_void>(),
                size_of::<usize>(),
            )?;
            sys::cublasLtMatmulAlgoGetHeuristic(
                library.0,
                plan.description.0,
                plan.weight.0,
                plan.x.0,
                plan.out.0,
                plan.out.0,
                preference.0,
                PROPOSALS as i32,
                proposals.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        // Not every GPU and shape has scales; products without have an algorithm wherever e4m3 is multiplied.
        if key.scaled && answer != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(None);
        }
        answer.result()?;
        let proposal = proposals[..count as usize]
            .iter()
            // SAFETY: the library has written so many.
            .map(|proposal| unsafe { proposal.assume_init_ref() })
            .filter(|proposal| proposal.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
            .nth(choice.proposal);
        Ok(proposal.map(|proposal| Self {
            algorithm: proposal.algo,
            ..plan
        }))
    }
}

impl Product {
    /// Makes the library ready in the current context; `None` where the GPU does not multiply e4m3 numbers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without cuBLASLt's library; as [`Module::load`].
    pub fn load(choice: Choice) -> Result<Option<Self>> {
        let [major, minor] = [
            DeviceAttribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            DeviceAttribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        ]
        .map(device_attribute);
        let capability = (major? as i32, minor? as i32);
        if !runs_on(capability) {
            return Ok(None);
        }
        // SAFETY: opening the library runs only its own initialisers.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Unsupported(
                "products in e4m3 need cuBLASLt, whose library (libcublasLt.so.13) cannot be opened"
                    .to_owned(),
            ));
        }
        let library = Library(result::create_handle().map_err(refused("cublasLtCreate"))?);
        let module = Module::load(fatbin!("fp8_scale"))?;
        let scale = |element: Element| module.function(&format!("fp8_scale_{}", element.name()));
        Ok(Some(Self {
            library,
            choice,
            hopper: capability.0 == 9,
            scale: [scale(Element::F32)?, scale(Element::F16)?, scale(Element::BF16)?],
            plans: Mutex::default(),
            _module: module,
        }))
    }

    /// Whether the library scales and so writes the output itself.
    fn is_scaled(&self, weight: &Fp8, tokens: usize, out: Element, biased: bool) -> Result<bool> {
        if !self.hopper || biased || tokens <= FEW_TOKENS || weight.rows != weight.padded_rows() {
            return Ok(false);
        }
        self.with_plan(key(weight, tokens, out, true), weight, |plan| Ok(plan.is_some()))
    }

    fn with_plan<T>(
        &self,
        key: Key,
        weight: &Fp8,
        use_it: impl FnOnce(Option<&Plan>) -> Result<T>,
    ) -> Result<T> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if !plans.contains_key(&key) {
            if plans.len() >= MOST_PLANS {
                plans.clear();
            }
            let plan = Plan::new(&self.library, key, self.choice, weight.scales)
                .map_err(refused("cublasLtMatmulAlgoGetHeuristic"))?;
            plans.insert(key, plan);
        }
        use_it(plans.get(&key).and_then(Option::as_ref))
    }

    /// Bytes of memory for sums that [`run`](Self::run) needs.
    ///
    /// # Errors
    /// [`Error::Blas`].
    pub fn sums(&self, weight: &Fp8, tokens: usize, out: Element, biased: bool) -> Result<usize> {
        Ok(if self.is_scaled(weight, tokens, out, biased)? {
            0
        } else {
            tokens * weight.padded_rows() * size_of::<f32>()
        })
    }

    /// Writes `x · weightᵀ + bias`, rounded once to the output's type.
    ///
    /// # Safety
    /// The buffers of `weight` are those of its shape; `x` was divided for `tokens` and the weight's columns; `bias` is
    /// `rows` f32 values; the output is `[tokens, rows]`, aligned to 16 bytes; `workspace` is [`WORKSPACE`] bytes on 256,
    /// `sums` as long as [`sums`](Self::sums) says, on 16 bytes; both are used by nothing else on another stream.
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::Blas`], [`Error::Unsupported`] for a shape that the library cannot multiply.
    #[expect(
        clippy::too_many_arguments,
        reason = "a product has three matrices, sizes, a type, memory and a stream"
    )]
    pub unsafe fn run(
        &self,
        weight: &Fp8,
        x: &Activations,
        tokens: usize,
        bias: Option<CUdeviceptr>,
        (out, element): (CUdeviceptr, Element),
        workspace: CUdeviceptr,
        sums: CUdeviceptr,
        stream: CUstream,
    ) -> Result<()> {
        let operands = (weight, x, workspace);
        if self.is_scaled(weight, tokens, element, bias.is_some())? {
            // SAFETY: as the caller promises.
            return unsafe { self.multiply(operands, key(weight, tokens, element, true), out, stream) };
        }
        let blocks = weight.rows.div_ceil(SCALE_THREADS as usize * 4).min(65_535);
        // SAFETY: as the caller promises; types and order are those of the kernel.
        unsafe {
            self.multiply(operands, key(weight, tokens, Element::F32, false), sums, stream)?;
            self.scale[element as usize].launch_overlapping(
                [tokens as u32, blocks as u32, 1],
                SCALE_THREADS,
                0,
                stream,
                arguments![
                    &sums,
                    &x.scales,
                    &weight.scales,
                    &bias.unwrap_or(0),
                    &out,
                    &(weight.rows as i32),
                    &(weight.padded_rows() as i32),
                ],
            )
        }
    }

    /// # Safety
    /// As for [`run`](Self::run); `out` has room for what the key says.
    unsafe fn multiply(
        &self,
        (weight, x, workspace): (&Fp8, &Activations, CUdeviceptr),
        key: Key,
        out: CUdeviceptr,
        stream: CUstream,
    ) -> Result<()> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        self.with_plan(key, weight, |plan| {
            let plan = plan.ok_or_else(|| {
                Error::Unsupported(format!(
                    "cuBLASLt has no product in e4m3 of {} tokens with {} x {} codes",
                    key.tokens, key.rows, key.pitch
                ))
            })?;
            if key.scaled {
                for (attribute, scales) in [
                    (Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, weight.scales),
                    (Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x.scales),
                ] {
                    plan.description
                        .set(attribute, &scales)
                        .map_err(refused("cublasLtMatmulDescSetAttribute"))?;
                }
            }
            // SAFETY: as the caller promises; the factors are f32, as the description says.
            unsafe {
                result::matmul(
                    self.library.0,
                    plan.description.0,
                    (&raw const one).cast(),
                    (&raw const zero).cast(),
                    weight.codes as *const c_void,
                    plan.weight.0,
                    x.codes as *const c_void,
                    plan.x.0,
                    out as *const c_void,
                    plan.out.0,
                    out as *mut c_void,
                    plan.out.0,
                    ptr::from_ref(&plan.algorithm),
                    workspace as *mut c_void,
                    WORKSPACE,
                    stream.cast(),
                )
            }
            .map_err(refused("cublasLtMatmul"))
        })
    }
}

fn key(weight: &Fp8, tokens: usize, out: Element, scaled: bool) -> Key {
    Key {
        rows: weight.padded_rows(),
        pitch: weight.pitch(),
        tokens,
        out,
        scaled,
    }
}
