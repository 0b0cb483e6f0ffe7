//! Backends and models across the boundary.

use std::sync::Arc;

use qbench_abi::{
    AbiForwardOut, AbiLayerOut, AbiLoadRequest, AbiMemory, AbiPlan, AbiResult, AbiTokenBatch, BackendAbi,
    BackendAbi_TO, BackendBox, CacheUse, DTypeCode, Extension, ModelAbi, ModelAbi_TO, ModelBox,
    abi_stable::{
        sabi_trait::TD_Opaque,
        std_types::{RNone, ROption, RSlice, RSliceMut, RSome, RStr, RString, RVec},
    },
};

use super::{
    Exported, convert, cuda_kernel, guard,
    weights::{self, ImportedWeights},
};
use crate::{
    Backend, CudaKernel, DType, Error, Layout, Model, Result,
    backend::{
        BackendInfo, Cache, DeviceInfo, Execution, ForwardOutput, LayerOutput, LoadRequest, LogitRows,
        Memory, ModelInfo, TokenBatch,
    },
    error::from_abi,
};

pub(super) struct ExportedBackend(pub(super) Exported<dyn Backend>);

pub(super) fn export(backend: Box<dyn Backend>) -> BackendBox {
    BackendAbi_TO::from_value(ExportedBackend(Exported::new(backend)), TD_Opaque)
}

impl BackendAbi for ExportedBackend {
    fn describe(&self) -> AbiResult<RString> {
        guard(|| Ok(serde_json::to_string(&self.0.info())?.into()))
    }

    fn devices(&self) -> AbiResult<RString> {
        guard(|| Ok(serde_json::to_string(&self.0.devices()?)?.into()))
    }

    fn negotiate(&self, device: RStr<'_>, plan: &AbiPlan, compute: DTypeCode) -> AbiResult<RString> {
        guard(|| {
            let layout = convert::plan_from_abi(plan)?;
            let execution = self
                .0
                .negotiate(device.as_str(), &layout, DType::from_code(compute)?)?;
            Ok(serde_json::to_string(&execution)?.into())
        })
    }

    fn load(&self, request: AbiLoadRequest<'_>) -> AbiResult<ModelBox> {
        guard(|| {
            let model = self.0.load(LoadRequest {
                config_json: request.config_json.as_str(),
                weights: Arc::new(ImportedWeights(request.weights)),
                device: request.device.as_str(),
                compute: DType::from_code(request.compute)?,
                threads: (request.threads as usize).max(1),
            })?;
            Ok(ModelAbi_TO::from_value(
                ExportedModel(Exported::new(model)),
                TD_Opaque,
            ))
        })
    }

    fn extension(&self, id: RStr<'_>) -> ROption<Extension<'_>> {
        cuda_kernel::runner(self, id)
    }
}

struct ExportedModel(Exported<dyn Model>);

fn layers_from_abi(layers: RVec<AbiLayerOut<'_>>) -> Result<Vec<LayerOutput<'_>>> {
    layers
        .into_iter()
        .map(|out| {
            Ok(LayerOutput {
                layer: convert::size(out.layer)?,
                data: out.data.into_mut_slice(),
            })
        })
        .collect()
}

impl ModelAbi for ExportedModel {
    fn describe(&self) -> AbiResult<RString> {
        guard(|| Ok(serde_json::to_string(&self.0.info()?)?.into()))
    }

    fn forward(&mut self, batch: AbiTokenBatch<'_>, out: AbiForwardOut<'_>) -> AbiResult<()> {
        guard(|| {
            let cache = match batch.cache {
                CacheUse::NONE => Cache::None,
                CacheUse::START => Cache::Start,
                CacheUse::CONTINUE => Cache::Continue,
                CacheUse(other) => return Err(Error::Unsupported(format!("cache use {other}"))),
            };
            let rows = if out.last_logits_only {
                LogitRows::Last
            } else {
                LogitRows::All
            };
            let mut output = ForwardOutput {
                hidden: layers_from_abi(out.hidden)?,
                pooled: layers_from_abi(out.pooled)?,
                logits: out
                    .logits
                    .into_option()
                    .map(|logits| (rows, logits.into_mut_slice())),
            };
            let batch = TokenBatch {
                ids: batch.ids.as_slice(),
                mask: batch.mask.as_slice(),
                batch: convert::size(batch.batch)?,
                length: convert::size(batch.length)?,
                cache,
            };
            self.0.forward(batch, &mut output)
        })
    }

    fn synchronize(&mut self) -> AbiResult<()> {
        guard(|| self.0.synchronize())
    }

    fn device_seconds(&mut self) -> AbiResult<ROption<f64>> {
        guard(|| Ok(self.0.device_seconds()?.into()))
    }

    fn memory(&self) -> AbiResult<AbiMemory> {
        guard(|| {
            let memory = self.0.memory()?;
            Ok(AbiMemory {
                allocated: memory.allocated,
                peak_allocated: memory.peak_allocated,
                reserved: memory.reserved.into(),
                measured_by: memory.measured_by.into(),
            })
        })
    }

    fn reset_peak_memory(&mut self) -> AbiResult<()> {
        guard(|| self.0.reset_peak_memory())
    }

    fn extension(&self, _id: RStr<'_>) -> ROption<Extension<'_>> {
        RNone
    }
}

/// A backend of a loaded plugin.
pub(super) struct ImportedBackend {
    backend: BackendBox,
    info: BackendInfo,
}

pub(super) fn import(backend: BackendBox) -> Result<ImportedBackend> {
    let info = serde_json::from_str(&from_abi(backend.describe())?)?;
    Ok(ImportedBackend { backend, info })
}

impl Backend for ImportedBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(serde_json::from_str(&from_abi(self.backend.devices())?)?)
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        let plan = convert::plan_to_abi(layout, 0)?;
        let answer = from_abi(
            self.backend
                .negotiate(RStr::from(device), &plan, compute.to_code()),
        )?;
        Ok(serde_json::from_str(&answer)?)
    }

    fn negotiate_with_kernel(
        &self,
        device: &str,
        layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        let answer =
            cuda_kernel::negotiate(|id| self.backend.extension(id), device, layout, compute, kernel)?;
        answer.map_or_else(|| self.negotiate(device, layout, compute), Ok)
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        let model = from_abi(self.backend.load(AbiLoadRequest {
            config_json: RStr::from(request.config_json),
            weights: weights::export(request.weights),
            device: RStr::from(request.device),
            compute: request.compute.to_code(),
            threads: u32::try_from(request.threads).unwrap_or(u32::MAX),
        }))?;
        Ok(Box::new(ImportedModel(model)))
    }
}

/// A model of a loaded plugin.
struct ImportedModel(ModelBox);

fn layers_to_abi<'a>(layers: &'a mut [LayerOutput<'_>]) -> RVec<AbiLayerOut<'a>> {
    layers
        .iter_mut()
        .map(|out| AbiLayerOut {
            layer: out.layer as u64,
            data: RSliceMut::from_mut_slice(out.data),
        })
        .collect()
}

impl Model for ImportedModel {
    fn info(&self) -> Result<ModelInfo> {
        Ok(serde_json::from_str(&from_abi(self.0.describe())?)?)
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        let (rows, logits) = match &mut output.logits {
            Some((rows, logits)) => (*rows, RSome(RSliceMut::from_mut_slice(logits))),
            None => (LogitRows::All, RNone),
        };
        from_abi(self.0.forward(
            AbiTokenBatch {
                ids: RSlice::from_slice(batch.ids),
                mask: RSlice::from_slice(batch.mask),
                batch: batch.batch as u64,
                length: batch.length as u64,
                cache: match batch.cache {
                    Cache::None => CacheUse::NONE,
                    Cache::Start => CacheUse::START,
                    Cache::Continue => CacheUse::CONTINUE,
                },
            },
            AbiForwardOut {
                hidden: layers_to_abi(&mut output.hidden),
                pooled: layers_to_abi(&mut output.pooled),
                logits,
                last_logits_only: rows == LogitRows::Last,
            },
        ))
    }

    fn synchronize(&mut self) -> Result<()> {
        from_abi(self.0.synchronize())
    }

    fn device_seconds(&mut self) -> Result<Option<f64>> {
        Ok(from_abi(self.0.device_seconds())?.into_option())
    }

    fn memory(&self) -> Result<Memory> {
        let memory = from_abi(self.0.memory())?;
        Ok(Memory {
            allocated: memory.allocated,
            peak_allocated: memory.peak_allocated,
            reserved: memory.reserved.into_option(),
            measured_by: memory.measured_by.into_string(),
        })
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        from_abi(self.0.reset_peak_memory())
    }
}
