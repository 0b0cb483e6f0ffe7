//! A backend that on request holds, computes or claims what it must not.
//!
//! Its model averages the embeddings of the tokens, whatever the layer, and takes every next token for equally likely.
//! The option `fault` says what is wrong with it:
//!
//! | fault | what it does |
//! |---|---|
//! | `nan` | writes a NaN into each output |
//! | `leak` | keeps 4 MB of each pass, and says so |
//! | `quiet-leak` | keeps 4 MB of each pass, and does not say so |
//! | `dense-copy` | keeps a dense copy of every matrix, and counts it |
//! | `quiet-dense-copy` | keeps a dense copy of every matrix, and does not count it |
//! | `no-bytes` | copies the weights, and says that it holds nothing |
//! | `bits` | says that each weight takes twice its bytes |
//! | `list` | lists a weight that it was not given |
//! | `busy` | is still at work when `synchronize` returns |
//! | `clock` | has a clock that runs ten times too fast |
//! | `kernel` | says that it runs natively what it said it could not |

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use qbench_sdk::{
    Backend, CallContext, DType, Error, Layout, MatrixMut, Model, Options, Result, StoredTensor,
    backend::{
        BackendInfo, DequantizeWhen, DeviceInfo, Execution, ForwardOutput, LoadRequest, Memory, ModelInfo,
        TokenBatch, WeightInfo,
    },
    export_plugin,
};

const EMBEDDING: &str = "model.embed_tokens.weight";
const LEAKED_BYTES: usize = 4_000_000;

struct Untruthful {
    fault: Arc<str>,
}

impl Untruthful {
    fn open(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let fault: String = options.take("fault", String::new())?;
        options.finish(&["fault"])?;
        Ok(Self { fault: fault.into() })
    }
}

fn native() -> Execution {
    Execution::Native {
        kernel: "mean of embeddings".to_owned(),
    }
}

impl Backend for Untruthful {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "untruthful".to_owned(),
            summary: "claims what it is told to".to_owned(),
            library: "none".to_owned(),
            architectures: vec!["mistral".to_owned()],
            precisions: vec![DType::F32],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo {
            id: "cpu".to_owned(),
            name: "a processor".to_owned(),
            ..DeviceInfo::default()
        }])
    }

    fn negotiate(&self, _device: &str, layout: &Layout, _compute: DType) -> Result<Execution> {
        if &*self.fault == "kernel" && !matches!(layout, Layout::Dense(_)) {
            return Ok(Execution::Dequantize {
                to: DType::F32,
                when: DequantizeWhen::Forward,
            });
        }
        Ok(native())
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        let mut model = Averaging {
            fault: self.fault.clone(),
            weights: Vec::new(),
            tensors: Vec::new(),
            embedding: Vec::new(),
            hidden: 0,
            layers: serde_json::from_str::<serde_json::Value>(request.config_json)?["num_hidden_layers"]
                .as_u64()
                .unwrap_or(1) as usize,
            kept: Vec::new(),
            synchronised: 0,
            started: Instant::now(),
        };
        for name in request.weights.names()? {
            model.take(&name, request.weights.tensor(&name)?)?;
        }
        Ok(Box::new(model))
    }
}

struct Averaging {
    fault: Arc<str>,
    weights: Vec<WeightInfo>,
    tensors: Vec<Box<dyn StoredTensor>>,
    /// Place of the embedding among the tensors.
    embedding: Vec<usize>,
    hidden: usize,
    layers: usize,
    /// What must not be kept.
    kept: Vec<Vec<u8>>,
    /// Calls of `synchronize` since the last pass.
    synchronised: u32,
    started: Instant,
}

impl Averaging {
    fn is(&self, fault: &str) -> bool {
        &*self.fault == fault
    }

    fn take(&mut self, name: &str, tensor: Box<dyn StoredTensor>) -> Result<()> {
        let layout = tensor.layout();
        let (rows, cols) = (layout.rows(), layout.cols());
        if name == EMBEDDING {
            self.embedding.push(self.tensors.len());
            self.hidden = cols;
        }
        if self.fault.ends_with("dense-copy") && rows > 1 {
            let mut copy = vec![0; rows * cols * size_of::<f32>()];
            tensor.dequantize(
                0,
                &mut MatrixMut::new(&mut copy, rows, cols, DType::F32)?,
                CallContext::single_threaded(),
            )?;
            self.kept.push(copy);
        }
        let twice = if self.is("bits") { 2 } else { 1 };
        self.weights.push(WeightInfo {
            name: if self.is("list") && rows == 1 {
                format!("{name}.other")
            } else {
                name.to_owned()
            },
            rows,
            cols,
            layout: layout.kind().to_owned(),
            bytes: layout.bytes() as u64 * twice,
            execution: native(),
        });
        if self.is("no-bytes") && name != EMBEDDING {
            self.kept.extend(tensor.buffers().into_iter().map(<[u8]>::to_vec));
            return Ok(());
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// Mean of the embeddings of a sequence's tokens.
    fn mean(&self, ids: &[u32], mask: &[u8], out: &mut [f32]) -> Result<()> {
        let place = self.embedding.first().copied().unwrap_or_default();
        let Some(matrix) = self.tensors.get(place).and_then(|tensor| tensor.dense()) else {
            return Err(Error::NotFound(format!("a dense tensor `{EMBEDDING}`")));
        };
        out.fill(0.0);
        let mut row = vec![0.0; self.hidden];
        let count = mask.iter().map(|mask| f32::from(*mask)).sum::<f32>().max(1.0);
        for (id, _) in ids.iter().zip(mask).filter(|(_, mask)| **mask == 1) {
            matrix.read_row(*id as usize, &mut row)?;
            for (sum, value) in out.iter_mut().zip(&row) {
                *sum += value / count;
            }
        }
        Ok(())
    }
}

impl Model for Averaging {
    fn info(&self) -> Result<ModelInfo> {
        Ok(ModelInfo {
            architecture: "mistral".to_owned(),
            vocab_size: 4096,
            hidden_size: self.hidden,
            layers: self.layers,
            heads: 1,
            kv_heads: 1,
            head_dim: self.hidden,
            intermediate_size: 1,
            max_positions: 1024,
            deterministic: true,
            weights: self.weights.clone(),
            ..ModelInfo::default()
        })
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        self.synchronised = 0;
        self.started = Instant::now();
        for layer in &mut output.pooled {
            for (sequence, out) in layer.data.chunks_mut(self.hidden).enumerate() {
                let tokens = sequence * batch.length..(sequence + 1) * batch.length;
                self.mean(&batch.ids[tokens.clone()], &batch.mask[tokens], out)?;
                if self.is("nan") {
                    out[0] = f32::NAN;
                }
            }
        }
        if let Some((_, logits)) = &mut output.logits {
            logits.fill(if self.is("nan") { f32::NAN } else { 0.0 });
        }
        if self.fault.ends_with("leak") {
            self.kept.push(vec![1; LEAKED_BYTES]);
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        self.synchronised += 1;
        if self.is("busy") && self.synchronised == 2 {
            thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    fn device_seconds(&mut self) -> Result<Option<f64>> {
        Ok(self
            .is("clock")
            .then(|| self.started.elapsed().as_secs_f64() * 10.0))
    }

    fn memory(&self) -> Result<Memory> {
        let counted = if self.fault.starts_with("quiet") || self.is("no-bytes") {
            0
        } else {
            self.kept.iter().map(Vec::len).sum::<usize>() as u64
        };
        Ok(Memory {
            allocated: counted,
            peak_allocated: counted,
            reserved: None,
            measured_by: "the plugin's word".to_owned(),
        })
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        Ok(())
    }
}

export_plugin!(backends: [Untruthful::open]);
