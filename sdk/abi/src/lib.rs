//! The binary interface between the qbench host and its plugins, major version 1.
//!
//! Everything here is frozen within a major version: no field, method or variant is added, removed or given another
//! meaning. New abilities arrive as *extensions*: a named, layout-checked table that either side may look up at run
//! time and that is absent on older peers (see [`Extension`]).
//!
//! Plugin authors never see this crate; they use `qbench-sdk`, whose safe traits are adapted to the objects below.
//! This is the only crate that names `abi_stable`.
#![allow(
    non_camel_case_types,
    non_local_definitions,
    missing_docs,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "abi_stable's derive and trait macros expand to items that these lints object to"
)]

use abi_stable::{
    StableAbi, declare_root_module_statics,
    library::RootModule,
    marker_type::ErasedPrefix,
    package_version_strings,
    prefix_type::PrefixRef,
    sabi_trait,
    sabi_types::{RRef, VersionStrings},
    std_types::{RBox, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec},
    type_layout::TypeLayout,
};

pub use abi_stable;

/// Element type of a buffer. An open enumeration: an unknown value is legal and answered with `UNSUPPORTED`.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DTypeCode(pub u8);

impl DTypeCode {
    pub const F32: Self = Self(1);
    pub const F16: Self = Self(2);
    pub const BF16: Self = Self(3);
    pub const I8: Self = Self(4);
    pub const U8: Self = Self(5);
}

/// Kind of failure, numbered as in `absl::StatusCode`; 100 is ours.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const INVALID_ARGUMENT: Self = Self(3);
    pub const NOT_FOUND: Self = Self(5);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const UNSUPPORTED: Self = Self(12);
    pub const INTERNAL: Self = Self(13);
    /// Plugin code panicked; the guard at the boundary turned the panic into this error.
    pub const PANIC: Self = Self(100);
}

/// A failure as it crosses the boundary: kind, sentence, and the chain of causes.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct AbiError {
    pub code: ErrorCode,
    pub message: RString,
    pub causes: RVec<RString>,
}

/// What every fallible entry returns.
pub type AbiResult<T> = RResult<T, AbiError>;

/// A borrowed row-major matrix; `row_stride` is in bytes.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiMatrix<'a> {
    pub data: RSlice<'a, u8>,
    pub rows: u64,
    pub cols: u64,
    pub row_stride: u64,
    pub dtype: DTypeCode,
}

/// A borrowed row-major matrix to be written; `row_stride` is in bytes.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiMatrixMut<'a> {
    pub data: RSliceMut<'a, u8>,
    pub rows: u64,
    pub cols: u64,
    pub row_stride: u64,
    pub dtype: DTypeCode,
}

/// One buffer of a layout: the host allocates `bytes` bytes for it, 64-byte aligned.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct AbiBufferSpec {
    pub name: RString,
    pub bytes: u64,
    pub dtype: DTypeCode,
}

/// How a matrix is to be stored: the described layout and the buffers that it needs.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct AbiPlan {
    /// Kind id, `qbench.<name>/<revision>`.
    pub layout_kind: RString,
    /// The layout as JSON; its floats live in buffers, never here.
    pub layout_json: RString,
    pub buffers: RVec<AbiBufferSpec>,
    /// Scratch memory that a matrix product on this layout may hold besides the buffers.
    pub workspace_bytes: u64,
}

/// Limits of a call.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiCallContext {
    /// Threads that the callee may use at most.
    pub threads: u32,
    /// Whether the result is no longer wanted; long calls poll it.
    pub cancelled: extern "C" fn() -> bool,
}

/// A table of functions behind an extension id, with the layout to check it against and the object that it is about.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Extension<'a> {
    pub layout: &'static TypeLayout,
    pub table: PrefixRef<ErasedPrefix>,
    /// First argument of the table's functions; it lives as long as the object that was asked for the extension.
    pub instance: RRef<'a, ()>,
}

/// A quantisation scheme. Every method may be called from any thread.
#[sabi_trait]
pub trait SchemeAbi: Send + Sync + 'static {
    /// `SchemeInfo` as JSON.
    fn describe(&self) -> AbiResult<RString>;
    /// Pure: depends on its arguments only.
    fn plan(&self, rows: u64, cols: u64, source: DTypeCode) -> AbiResult<AbiPlan>;
    fn quantize(
        &self,
        source: AbiMatrix<'_>,
        plan: &AbiPlan,
        buffers: RVec<RSliceMut<'_, u8>>,
        context: AbiCallContext,
    ) -> AbiResult<()>;
    /// Writes the rows `first_row ..` that `out` has room for.
    fn dequantize(
        &self,
        plan: &AbiPlan,
        buffers: RVec<RSlice<'_, u8>>,
        first_row: u64,
        out: AbiMatrixMut<'_>,
        context: AbiCallContext,
    ) -> AbiResult<()>;
    /// `output = input · Wᵀ`; `UNSUPPORTED` where the scheme has no product of its own.
    fn matmul(
        &self,
        plan: &AbiPlan,
        buffers: RVec<RSlice<'_, u8>>,
        input: AbiMatrix<'_>,
        output: AbiMatrixMut<'_>,
        context: AbiCallContext,
    ) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>>;
}
/// An owned scheme.
pub type SchemeBox = SchemeAbi_TO<RBox<()>>;

/// A weight as the host holds it; its memory lives until the object is dropped.
#[sabi_trait]
pub trait TensorAbi: Send + Sync + 'static {
    fn plan(&self) -> AbiPlan;
    /// The bytes of buffer `index` in the order of the plan; empty past the last.
    fn buffer(&self, index: u32) -> RSlice<'_, u8>;
    fn dequantize(&self, first_row: u64, out: AbiMatrixMut<'_>, context: AbiCallContext) -> AbiResult<()>;
    fn matmul(
        &self,
        input: AbiMatrix<'_>,
        output: AbiMatrixMut<'_>,
        context: AbiCallContext,
    ) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>>;
}
/// An owned weight.
pub type TensorBox = TensorAbi_TO<RBox<()>>;

/// The weights of a model, quantised on demand by the host as its policy says.
#[sabi_trait]
pub trait WeightsAbi: Send + Sync + 'static {
    fn names(&self) -> AbiResult<RVec<RString>>;
    fn tensor(&self, name: RStr<'_>) -> AbiResult<TensorBox>;
    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>>;
}
/// Owned access to a model's weights.
pub type WeightsBox = WeightsAbi_TO<RBox<()>>;

/// How a forward pass uses the model's key-value cache.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheUse(pub u8);

impl CacheUse {
    /// No cache is read or written.
    pub const NONE: Self = Self(0);
    /// The cache is emptied, then filled by this pass.
    pub const START: Self = Self(1);
    /// This pass continues the cached sequences.
    pub const CONTINUE: Self = Self(2);
}

/// A rectangular batch of token ids, padded on either side.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiTokenBatch<'a> {
    /// `[batch, length]`, row-major.
    pub ids: RSlice<'a, u32>,
    /// `[batch, cached + length]`: 1 for a token, 0 for padding.
    pub mask: RSlice<'a, u8>,
    pub batch: u64,
    pub length: u64,
    pub cache: CacheUse,
}

/// Room for one layer's states; `layer` 0 is the embedding, the last is after the final norm.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiLayerOut<'a> {
    pub layer: u64,
    pub data: RSliceMut<'a, f32>,
}

/// What a forward pass is to write; everything that is not asked for need not be computed.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiForwardOut<'a> {
    /// Each `[batch · length, hidden]`.
    pub hidden: RVec<AbiLayerOut<'a>>,
    /// Each `[batch, hidden]`: the mean over the tokens, padding left out.
    pub pooled: RVec<AbiLayerOut<'a>>,
    /// `[batch · length, vocabulary]`, or `[batch, vocabulary]` for the last token only.
    pub logits: ROption<RSliceMut<'a, f32>>,
    pub last_logits_only: bool,
}

/// Memory of a model on its device, in bytes.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct AbiMemory {
    pub allocated: u64,
    pub peak_allocated: u64,
    /// What the allocator holds from the device, where it differs from `allocated`.
    pub reserved: ROption<u64>,
    /// Who counted, in words.
    pub measured_by: RString,
}

/// A loaded model. All calls come from one thread.
#[sabi_trait]
pub trait ModelAbi: Send + 'static {
    /// `ModelInfo` as JSON.
    fn describe(&self) -> AbiResult<RString>;
    fn forward(&mut self, batch: AbiTokenBatch<'_>, out: AbiForwardOut<'_>) -> AbiResult<()>;
    /// Returns once the device has finished everything it was given.
    fn synchronize(&mut self) -> AbiResult<()>;
    /// Seconds of the last `forward` by the device's own clock, asked after `synchronize`; none without such a clock.
    fn device_seconds(&mut self) -> AbiResult<ROption<f64>>;
    fn memory(&self) -> AbiResult<AbiMemory>;
    fn reset_peak_memory(&mut self) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>>;
}
/// An owned model.
pub type ModelBox = ModelAbi_TO<RBox<()>>;

/// What a backend needs to load a model. The weights come through `weights`: a backend opens no file.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiLoadRequest<'a> {
    /// The text of the model's config.json.
    pub config_json: RStr<'a>,
    pub weights: WeightsBox,
    pub device: RStr<'a>,
    /// Type of dense weights and of the inputs of matrix products.
    pub compute: DTypeCode,
    pub threads: u32,
}

/// What runs a model on a device. Every method may be called from any thread.
#[sabi_trait]
pub trait BackendAbi: Send + Sync + 'static {
    /// `BackendInfo` as JSON.
    fn describe(&self) -> AbiResult<RString>;
    /// `[DeviceInfo]` as JSON; an error says why there is none.
    fn devices(&self) -> AbiResult<RString>;
    /// `Execution` as JSON: how a layout would run, asked before anything is loaded.
    fn negotiate(&self, device: RStr<'_>, plan: &AbiPlan, compute: DTypeCode) -> AbiResult<RString>;
    fn load(&self, request: AbiLoadRequest<'_>) -> AbiResult<ModelBox>;
    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>>;
}
/// An owned backend.
pub type BackendBox = BackendAbi_TO<RBox<()>>;

/// What the host offers a plugin. `log` levels: 1 error, 2 warning, 3 info, 4 debug, 5 trace.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct HostServices {
    pub log: extern "C" fn(level: u8, target: RStr<'_>, message: RStr<'_>),
    pub log_enabled: extern "C" fn(level: u8) -> bool,
    pub extension: extern "C" fn(id: RStr<'_>) -> ROption<Extension<'static>>,
}

/// The root module of a plugin. To enumerate is cheap and opens nothing.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRoot_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginRoot {
    /// `PluginManifest` as JSON.
    pub manifest: extern "C" fn() -> AbiResult<RString>,
    pub init: extern "C" fn(HostServices) -> AbiResult<()>,
    /// `SchemeInfo` of each scheme as JSON.
    pub schemes: extern "C" fn() -> AbiResult<RVec<RString>>,
    pub open_scheme: extern "C" fn(id: RStr<'_>, options_json: RStr<'_>) -> AbiResult<SchemeBox>,
    /// `BackendInfo` of each backend as JSON.
    pub backends: extern "C" fn() -> AbiResult<RVec<RString>>,
    pub open_backend: extern "C" fn(id: RStr<'_>, options_json: RStr<'_>) -> AbiResult<BackendBox>,
    #[sabi(last_prefix_field)]
    pub extension: extern "C" fn(id: RStr<'_>) -> ROption<Extension<'static>>,
}

/// Extension id: a scheme brings a CUDA kernel that turns its stored weights into floats. Schemes and tensors answer it
/// with [`CudaKernelSource`], backends that run such kernels with [`CudaKernelRunner`].
pub const CUDA_KERNEL: &str = "qbench.cuda-kernel/1";

/// `qbench.cuda-kernel/1` of a scheme or tensor.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = CudaKernelSource_Ref)))]
#[sabi(missing_field(panic))]
pub struct CudaKernelSource {
    /// `CudaKernel` as JSON for weights that are stored as `plan` says; none where the scheme has no kernel for them.
    /// Of a tensor, `plan` is its own. The first argument is the extension's instance.
    #[sabi(last_prefix_field)]
    pub kernel: unsafe extern "C" fn(instance: RRef<'_, ()>, plan: &AbiPlan) -> AbiResult<ROption<RString>>,
}

/// `qbench.cuda-kernel/1` of a backend.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = CudaKernelRunner_Ref)))]
#[sabi(missing_field(panic))]
pub struct CudaKernelRunner {
    /// `Execution` as JSON: how a layout would run whose scheme brings this kernel. The first argument is the
    /// extension's instance.
    #[sabi(last_prefix_field)]
    pub negotiate: unsafe extern "C" fn(
        instance: RRef<'_, ()>,
        device: RStr<'_>,
        plan: &AbiPlan,
        compute: DTypeCode,
        kernel_json: RStr<'_>,
    ) -> AbiResult<RString>,
}

impl RootModule for PluginRoot_Ref {
    declare_root_module_statics! { PluginRoot_Ref }
    const BASE_NAME: &'static str = "qbench_plugin";
    const NAME: &'static str = "qbench-plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// The symbol under which a plugin exports its abi_stable library header, as the export macro writes it.
pub const HEADER_SYMBOL: &str = "_1as_0lib_1header_0root_bmodule_bloader\0";

#[cfg(test)]
mod tests {
    use super::*;
    use abi_stable::{
        abi_stability::abi_checking::check_layout_compatibility, library::ROOT_MODULE_LOADER_NAME_WITH_NUL,
    };

    #[test]
    fn layout_is_compatible_with_itself() {
        let layout = <PluginRoot_Ref as StableAbi>::LAYOUT;
        check_layout_compatibility(layout, layout).expect("a layout is compatible with itself");
    }

    #[test]
    fn header_symbol_is_the_one_abi_stable_looks_for() {
        assert_eq!(ROOT_MODULE_LOADER_NAME_WITH_NUL, HEADER_SYMBOL);
    }
}
