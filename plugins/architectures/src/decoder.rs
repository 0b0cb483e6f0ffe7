//! The decoder that Mistral and Llama share: pre-norm layers of rotary attention and a gated MLP.

use qbench_sdk::{
    Error, Result, Weights,
    backend::{Cache, ForwardOutput, LayerOutput, LogitRows, TokenBatch, WeightInfo},
};

use crate::{
    AttentionShape, DecoderConfig, Ops, Pass,
    loader::{HEAD, Loader},
    rope::RopeTable,
};

struct Layer<O: Ops> {
    input_norm: O::Vector,
    q: O::Linear,
    k: O::Linear,
    v: O::Linear,
    o: O::Linear,
    mlp_norm: O::Vector,
    gate: O::Linear,
    up: O::Linear,
    down: O::Linear,
}

enum Head<O: Ops> {
    Own(O::Linear),
    Tied,
    Absent,
}

/// Keys and values of earlier passes.
struct CachedPass<O: Ops> {
    batch: usize,
    positions: usize,
    layers: Vec<O::Cache>,
}

/// A loaded decoder.
pub struct Decoder<O: Ops> {
    config: DecoderConfig,
    attention: AttentionShape,
    embedding: O::Linear,
    layers: Vec<Layer<O>>,
    norm: O::Vector,
    head: Head<O>,
    rope: RopeTable,
    cache: Option<CachedPass<O>>,
    weights: Vec<WeightInfo>,
}

impl<O: Ops> Decoder<O> {
    /// Loads a decoder by the names of its checkpoint, with or without the prefix `model.`.
    ///
    /// A checkpoint without the prefix is that of the bare decoder and may lack `lm_head.weight`; it then has no
    /// logits. With tied embeddings `lm_head.weight` is not read.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen, or stored as the backend cannot run it.
    pub fn load(weights: &dyn Weights, config: DecoderConfig, ops: &mut O) -> Result<Self> {
        let mut loader = Loader::new(weights, ops)?;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = loader.linear("embed_tokens", vocab, hidden, false)?;
        let layers = (0..config.layers)
            .map(|index| Layer::load(&mut loader, &config, index))
            .collect::<Result<_>>()?;
        let norm = loader.vector("norm.weight", hidden)?;
        let head = if config.tied_embeddings {
            Head::Tied
        } else if loader.expects_head() {
            Head::Own(loader.head(vocab, hidden)?)
        } else {
            Head::Absent
        };
        Ok(Self {
            attention: AttentionShape {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
                causal: true,
                window: config.sliding_window,
            },
            rope: RopeTable::new(config.rope_theta, config.head_dim),
            weights: loader.finish(),
            cache: None,
            config,
            embedding,
            layers,
            norm,
            head,
        })
    }

    /// What the decoder was made from.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Every weight, in the order of loading.
    pub fn weights(&self) -> &[WeightInfo] {
        &self.weights
    }

    /// Bytes of the tables that passes have made so far.
    pub fn table_bytes(&self) -> u64 {
        self.rope.bytes()
    }

    /// Runs `batch` and writes what `output` asks for, always through all layers.
    ///
    /// Positions are counted from 0 through padding, as transformers does without `position_ids`.
    ///
    /// # Errors
    /// A token outside the vocabulary, sizes that disagree, a pass that continues no cache, and those of the
    /// operations. After an error the cache is empty.
    pub fn forward(&mut self, ops: &O, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        let mut cached = match batch.cache {
            Cache::None => None,
            Cache::Start => {
                self.cache = None;
                Some(CachedPass {
                    batch: batch.batch,
                    positions: 0,
                    layers: (0..self.layers.len())
                        .map(|_| ops.new_cache(batch.batch, &self.attention))
                        .collect::<Result<_>>()?,
                })
            }
            Cache::Continue => Some(self.cache.take().ok_or_else(|| {
                Error::InvalidArgument("a pass that continues a cache, but none was started".to_owned())
            })?),
        };
        let past = cached.as_ref().map_or(0, |cached| cached.positions);
        self.check_batch(&batch, cached.as_ref())?;
        self.check_output(&batch, output)?;
        let (cos, sin) = self.rope.rows(past, batch.length);
        let tokens = ops.begin(&Pass {
            tokens: batch,
            past,
            cos,
            sin,
        })?;

        let only_logits = output.hidden.is_empty() && output.pooled.is_empty();
        match (&mut cached, &mut output.logits) {
            (Some(cached), Some((_, logits))) if batch.length == 1 && only_logits => {
                let layers = |caches: &mut [O::Cache]| {
                    let nothing = &mut ForwardOutput::default();
                    self.run_layers(ops, &tokens, Some(caches), nothing, &mut Vec::new())
                };
                ops.decode(&tokens, &mut cached.layers, self.head()?, logits, &layers)?;
                ops.finish()?;
            }
            _ => {
                let mut pooled = Vec::new();
                let caches = cached.as_mut().map(|cached| &mut cached.layers[..]);
                let normed = self.run_layers(ops, &tokens, caches, output, &mut pooled)?;
                if let Some((rows, logits)) = &mut output.logits {
                    let head = self.head()?;
                    match rows {
                        LogitRows::All => ops.project(&normed, head, logits)?,
                        LogitRows::Last => {
                            ops.project(&ops.last_positions(&normed, &tokens)?, head, logits)?;
                        }
                    }
                }
                ops.finish()?;
                for (index, mean) in pooled {
                    ops.read_pooled(mean, output.pooled[index].data)?;
                }
            }
        }
        if let Some(mut cached) = cached {
            cached.positions += batch.length;
            self.cache = Some(cached);
        }
        Ok(())
    }

    /// The normed states after the last layer. Hidden states go where `output` wants them, means into `pooled`.
    fn run_layers(
        &self,
        ops: &O,
        tokens: &O::Tokens,
        mut caches: Option<&mut [O::Cache]>,
        output: &mut ForwardOutput<'_>,
        pooled: &mut Vec<(usize, O::Pooled)>,
    ) -> Result<O::Tensor> {
        let eps = self.config.rms_norm_eps;
        let norm_before = |index: usize| {
            self.layers
                .get(index)
                .map_or(&self.norm, |layer| &layer.input_norm)
        };
        let mut x = ops.embed(&self.embedding, tokens)?;
        let mut normed = ops.rms_norm(&x, norm_before(0), eps)?;
        for (index, layer) in self.layers.iter().enumerate() {
            emit(ops, &x, tokens, index, output, pooled)?;
            let cache = caches.as_deref_mut().map(|caches| &mut caches[index]);
            let mixed = layer.attention(ops, normed, &self.attention, tokens, cache)?;
            (x, normed) = ops.add_rms_norm(x, &mixed, &layer.mlp_norm, eps)?;
            drop(mixed);
            let mlp = ops.gated_mlp(&normed, &layer.gate, &layer.up, &layer.down)?;
            drop(normed);
            (x, normed) = ops.add_rms_norm(x, &mlp, norm_before(index + 1), eps)?;
        }
        drop(x);
        emit(ops, &normed, tokens, self.layers.len(), output, pooled)?;
        Ok(normed)
    }

    fn head(&self) -> Result<&O::Linear> {
        match &self.head {
            Head::Own(linear) => Ok(linear),
            Head::Tied => Ok(&self.embedding),
            Head::Absent => Err(Error::NotFound(format!(
                "logits need `{HEAD}`; the checkpoint holds the bare decoder without it"
            ))),
        }
    }

    fn check_batch(&self, batch: &TokenBatch<'_>, cached: Option<&CachedPass<O>>) -> Result<()> {
        let invalid = |what: String| Err(Error::InvalidArgument(what));
        let past = cached.map_or(0, |cached| cached.positions);
        if batch.batch == 0 || batch.length == 0 {
            return invalid(format!(
                "a batch of {} sequences of {} tokens",
                batch.batch, batch.length
            ));
        }
        if let Some(cached) = cached.filter(|cached| cached.batch != batch.batch) {
            return invalid(format!(
                "a batch of {} sequences continues a cache of {}",
                batch.batch, cached.batch
            ));
        }
        if batch.ids.len() != batch.batch * batch.length {
            return invalid(format!(
                "{} token ids for {} sequences of {} tokens",
                batch.ids.len(),
                batch.batch,
                batch.length
            ));
        }
        if batch.mask.len() != batch.batch * (past + batch.length) {
            return invalid(format!(
                "a mask of {} entries for {} sequences of {past} cached and {} new positions",
                batch.mask.len(),
                batch.batch,
                batch.length
            ));
        }
        let vocab = self.config.vocab_size;
        match batch.ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => invalid(format!(
                "token id {id} lies outside the vocabulary of {vocab} entries"
            )),
            None => Ok(()),
        }
    }

    fn check_output(&self, batch: &TokenBatch<'_>, output: &ForwardOutput<'_>) -> Result<()> {
        let layers = self.layers.len();
        let width = self.config.hidden_size;
        let states = |what: &str, wanted: &[LayerOutput<'_>], rows: usize| {
            wanted
                .iter()
                .try_for_each(|out| match (out.layer, out.data.len()) {
                    (layer, _) if layer > layers => Err(Error::InvalidArgument(format!(
                        "hidden state {layer} of a model with states 0 to {layers}"
                    ))),
                    (layer, length) if length != rows * width => Err(Error::InvalidArgument(format!(
                        "{what} {layer}: room for {length} values, {rows} x {width} are written"
                    ))),
                    _ => Ok(()),
                })
        };
        states("hidden state", &output.hidden, batch.batch * batch.length)?;
        states("pooled state", &output.pooled, batch.batch)?;
        if let Some((rows, logits)) = &output.logits {
            self.head()?;
            let rows = match rows {
                LogitRows::All => batch.batch * batch.length,
                LogitRows::Last => batch.batch,
            };
            let vocab = self.config.vocab_size;
            if logits.len() != rows * vocab {
                return Err(Error::InvalidArgument(format!(
                    "logits: room for {} values, {rows} x {vocab} are written",
                    logits.len()
                )));
            }
        }
        Ok(())
    }
}

/// Writes hidden state `layer` wherever it is wanted. Means are noted in `pooled` with the output's index and read after
/// the pass: reading one waits for the device.
fn emit<O: Ops>(
    ops: &O,
    x: &O::Tensor,
    tokens: &O::Tokens,
    layer: usize,
    output: &mut ForwardOutput<'_>,
    pooled: &mut Vec<(usize, O::Pooled)>,
) -> Result<()> {
    for out in output.hidden.iter_mut().filter(|out| out.layer == layer) {
        ops.copy_out(x, out.data)?;
    }
    for (index, _) in output
        .pooled
        .iter()
        .enumerate()
        .filter(|(_, out)| out.layer == layer)
    {
        pooled.push((index, ops.mean_pool(x, tokens)?));
    }
    Ok(())
}

impl<O: Ops> Layer<O> {
    fn load(loader: &mut Loader<'_, O>, config: &DecoderConfig, index: usize) -> Result<Self> {
        let hidden = config.hidden_size;
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let inner = config.intermediate_size;
        let (bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
        let name = |module: &str| format!("layers.{index}.{module}");
        Ok(Self {
            input_norm: loader.vector(&name("input_layernorm.weight"), hidden)?,
            q: loader.linear(&name("self_attn.q_proj"), q, hidden, bias)?,
            k: loader.linear(&name("self_attn.k_proj"), kv, hidden, bias)?,
            v: loader.linear(&name("self_attn.v_proj"), kv, hidden, bias)?,
            o: loader.linear(&name("self_attn.o_proj"), hidden, q, bias)?,
            mlp_norm: loader.vector(&name("post_attention_layernorm.weight"), hidden)?,
            gate: loader.linear(&name("mlp.gate_proj"), inner, hidden, mlp_bias)?,
            up: loader.linear(&name("mlp.up_proj"), inner, hidden, mlp_bias)?,
            down: loader.linear(&name("mlp.down_proj"), hidden, inner, mlp_bias)?,
        })
    }

    /// What the layer's attention adds to the residual stream, from the normed stream.
    fn attention(
        &self,
        ops: &O,
        normed: O::Tensor,
        shape: &AttentionShape,
        tokens: &O::Tokens,
        cache: Option<&mut O::Cache>,
    ) -> Result<O::Tensor> {
        let [q, k, v] = ops.projections(&normed, [&self.q, &self.k, &self.v])?;
        drop(normed);
        let (q, k) = ops.rope(q, k, shape.head_dim, tokens)?;
        let mixed = ops.attention(q, k, v, shape, tokens, cache)?;
        ops.linear(&mixed, &self.o)
    }
}
