//! Backends and models: what runs a model on a device.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CudaKernel, DType, Layout, Result, Weights};

/// What a backend is called and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendInfo {
    /// The name that `--backend` takes; unique among all plugins.
    pub id: String,
    /// One line for `qbench plugin list`.
    pub summary: String,
    /// Name and version of the library that does the work.
    pub library: String,
    /// Values of `model_type` in config.json that it runs.
    pub architectures: Vec<String>,
    /// Precisions that it computes in.
    pub precisions: Vec<DType>,
}

/// A device that a backend found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The name that `--device` takes: `cpu`, `cuda:0`.
    pub id: String,
    /// The hardware's name.
    pub name: String,
    /// Its memory in bytes, where known.
    pub memory_bytes: Option<u64>,
    /// Version of its driver, where there is one.
    #[serde(default)]
    pub driver: String,
    /// Version of CUDA, where there is one.
    #[serde(default)]
    pub cuda: String,
    /// The hardware's own identity where it has one, such as a GPU's `GPU-8dfe9b5c-…`: by it the host finds the
    /// device's counters.
    #[serde(default)]
    pub uuid: String,
    /// What else is worth knowing, such as the instruction sets in use.
    #[serde(default)]
    pub details: String,
}

/// How a backend runs a layout. Stored with every result, so that a fallback is never passed off as a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "execution")]
pub enum Execution {
    /// The backend computes on the described storage itself.
    Native {
        /// Name of the kernel.
        kernel: String,
    },
    /// The scheme's own product, on the CPU.
    SchemeMatmul,
    /// The scheme's own CUDA kernel: the weight stays packed on the device and is turned into floats at every pass.
    SchemeKernel {
        /// Name of the kernel.
        kernel: String,
        /// Type that the weight is turned into.
        to: DType,
    },
    /// The weight is turned into floats first.
    Dequantize {
        /// Type that it is turned into.
        to: DType,
        /// `load` (once, held densely) or `forward` (at every pass).
        when: DequantizeWhen,
    },
    /// The backend cannot run it.
    Unsupported {
        /// Why.
        reason: String,
    },
}

/// When a weight without a native kernel is turned into floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DequantizeWhen {
    /// Once, when the model is loaded.
    Load,
    /// At every forward pass.
    Forward,
}

impl std::fmt::Display for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Native { kernel } => write!(f, "native: {kernel}"),
            Self::SchemeMatmul => f.write_str("scheme matmul"),
            Self::SchemeKernel { kernel, to } => {
                write!(f, "scheme kernel: {kernel} to {to} at each forward")
            }
            Self::Dequantize {
                to,
                when: DequantizeWhen::Load,
            } => write!(f, "dequantize to {to} at load"),
            Self::Dequantize {
                to,
                when: DequantizeWhen::Forward,
            } => {
                write!(f, "dequantize to {to} at each forward")
            }
            Self::Unsupported { reason } => write!(f, "unsupported: {reason}"),
        }
    }
}

/// What a backend needs to load a model. It opens no file: the weights come through [`Weights`].
pub struct LoadRequest<'a> {
    /// The text of the model's config.json.
    pub config_json: &'a str,
    /// The model's weights; the names are those of the checkpoint.
    pub weights: Arc<dyn Weights>,
    /// Id of the device, one of [`Backend::devices`].
    pub device: &'a str,
    /// The precision: type of dense weights, of the residual stream, and of the inputs of matrix products.
    pub compute: DType,
    /// Threads that the backend may use at most.
    pub threads: usize,
}

/// What runs models on a device. Methods may be called from any thread.
pub trait Backend: Send + Sync + 'static {
    /// Name and abilities. Cheap: touches no device.
    fn info(&self) -> BackendInfo;

    /// The devices that are there.
    ///
    /// # Errors
    /// Why there is none (no driver, no device).
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// How this backend would run `layout`, asked before anything is loaded.
    ///
    /// # Errors
    /// An unknown device.
    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution>;

    /// How this backend would run `layout`, whose scheme brings `kernel`. Asked in place of
    /// [`negotiate`](Self::negotiate) where there is one; the default does without it.
    ///
    /// A backend that runs such kernels answers [`Execution::SchemeKernel`] where it has none of its own for the layout
    /// and the kernel has an entry for the type that it needs.
    ///
    /// # Errors
    /// Those of [`negotiate`](Self::negotiate).
    fn negotiate_with_kernel(
        &self,
        device: &str,
        layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        let _ = kernel;
        self.negotiate(device, layout, compute)
    }

    /// Loads a model.
    ///
    /// # Errors
    /// An unknown architecture, a missing or misshapen weight, too little memory.
    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>>;
}

/// Shape of a loaded model and how its weights are run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `model_type` of config.json.
    pub architecture: String,
    /// Entries of the vocabulary: columns of the logits.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Decoder or encoder layers; there is one hidden state more.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Longest sequence in tokens.
    pub max_positions: usize,
    /// Whether the same input gives the same bits each time.
    pub deterministic: bool,
    /// Bytes that the model may keep besides its weights: tables, caches and scratch of its products. What it holds
    /// beyond weights and this makes its measurements invalid.
    #[serde(default)]
    pub workspace_bytes: u64,
    /// Largest KL in nats, at any position, between two passes over the same input in processes of their own; asked of a
    /// model that is not deterministic. `None` where the backend does not say.
    #[serde(default)]
    pub repeat_kl_bound: Option<f64>,
    /// Every weight.
    pub weights: Vec<WeightInfo>,
}

/// One weight of a loaded model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightInfo {
    /// Name in the checkpoint.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Kind id of its layout as the host stored it.
    pub layout: String,
    /// Bytes that the model holds for it.
    pub bytes: u64,
    /// How it is run.
    pub execution: Execution,
}

/// How a forward pass uses the model's key-value cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// No cache is read or written.
    #[default]
    None,
    /// The cache is emptied, then filled by this pass.
    Start,
    /// This pass continues the cached sequences.
    Continue,
}

/// A rectangular batch of token ids, padded on either side.
#[derive(Clone, Copy, Debug)]
pub struct TokenBatch<'a> {
    /// `[batch, length]`, row-major.
    pub ids: &'a [u32],
    /// `[batch, cached + length]`: 1 for a token, 0 for padding, the cached positions first.
    pub mask: &'a [u8],
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence in this pass, padding included.
    pub length: usize,
    /// Use of the key-value cache.
    pub cache: Cache,
}

/// Room for one layer's states; layer 0 is the embedding, the last (`layers`) is after the final norm.
#[derive(Debug)]
pub struct LayerOutput<'a> {
    /// Index of the hidden state, `0 ..= layers`.
    pub layer: usize,
    /// Where the f32 values go.
    pub data: &'a mut [f32],
}

/// Which positions' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// `[batch · length, vocabulary]`.
    All,
    /// `[batch, vocabulary]`: the last position of the pass.
    Last,
}

/// What a forward pass is to write. Everything that is not asked for need not be computed.
#[derive(Debug, Default)]
pub struct ForwardOutput<'a> {
    /// Hidden states, each `[batch · length, hidden]`.
    pub hidden: Vec<LayerOutput<'a>>,
    /// Hidden states averaged over the tokens of a sequence, padding left out; each `[batch, hidden]`.
    pub pooled: Vec<LayerOutput<'a>>,
    /// Logits in f32.
    pub logits: Option<(LogitRows, &'a mut [f32])>,
}

/// Memory of a model on its device, counted by its allocator, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Held now. Memory of the host's [`StoredTensor`](crate::StoredTensor)s is not in it: the host counts that itself.
    pub allocated: u64,
    /// Most that was held since the last reset.
    pub peak_allocated: u64,
    /// What the allocator holds from the device, where that differs.
    pub reserved: Option<u64>,
    /// Who counted, in words.
    pub measured_by: String,
}

/// A loaded model. All calls come from one thread.
pub trait Model: Send {
    /// Shape, and how each weight is run.
    ///
    /// # Errors
    /// None of the model's own; the boundary's.
    fn info(&self) -> Result<ModelInfo>;

    /// Runs `batch` and writes what `output` asks for. On a device the work may still be under way on return when
    /// `output` asks for nothing; outputs in host memory are complete.
    ///
    /// # Errors
    /// A token outside the vocabulary, a batch that does not fit the cache, a buffer of the wrong size, too little
    /// memory.
    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()>;

    /// Returns once the device has finished everything it was given.
    ///
    /// # Errors
    /// A fault of the device.
    fn synchronize(&mut self) -> Result<()>;

    /// Seconds that the last [`forward`](Self::forward) took by the device's own clock (CUDA events, say), asked after
    /// [`synchronize`](Self::synchronize). `None` where there is no such clock.
    ///
    /// # Errors
    /// A fault of the device.
    fn device_seconds(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Memory in use.
    ///
    /// # Errors
    /// A fault of the device.
    fn memory(&self) -> Result<Memory>;

    /// Starts a new peak from what is held now.
    ///
    /// # Errors
    /// A fault of the device.
    fn reset_peak_memory(&mut self) -> Result<()>;
}
