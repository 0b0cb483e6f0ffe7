//! A decoder as the sdk's [`Model`].

use qbench_sdk::{
    Model, Result, Weights,
    backend::{ForwardOutput, Memory, ModelInfo, TokenBatch},
};

use crate::{Decoder, DecoderConfig, Ops};

/// A decoder and the operations that run it: what a backend's `load` returns.
pub struct DecoderModel<O: Ops> {
    decoder: Decoder<O>,
    ops: O,
}

impl<O: Ops> DecoderModel<O> {
    /// Reads the configuration and loads the decoder that it describes.
    ///
    /// # Errors
    /// Those of [`DecoderConfig::from_json`] and [`Decoder::load`].
    pub fn load(config_json: &str, weights: &dyn Weights, mut ops: O) -> Result<Self> {
        let config = DecoderConfig::from_json(config_json)?;
        let decoder = Decoder::load(weights, config, &mut ops)?;
        Ok(Self { decoder, ops })
    }

    /// The operations.
    pub fn ops(&self) -> &O {
        &self.ops
    }
}

impl<O: Ops> Model for DecoderModel<O> {
    fn info(&self) -> Result<ModelInfo> {
        let config = self.decoder.config();
        Ok(ModelInfo {
            architecture: config.architecture.clone(),
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            intermediate_size: config.intermediate_size,
            max_positions: config.max_positions,
            deterministic: self.ops.deterministic(),
            workspace_bytes: self.decoder.table_bytes() + self.ops.workspace_bytes(),
            repeat_kl_bound: None,
            weights: self.decoder.weights().to_vec(),
        })
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        self.decoder.forward(&self.ops, batch, output)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.ops.synchronize()
    }

    fn device_seconds(&mut self) -> Result<Option<f64>> {
        self.ops.device_seconds()
    }

    fn memory(&self) -> Result<Memory> {
        self.ops.memory()
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        self.ops.reset_peak_memory()
    }
}
