//! A second opinion for tests: decoders in candle-core's own operations on its CPU device, with no kernel of ours.
//!
//! What the kernels of the CPU and the CUDA backend get wrong alike does not show when they are compared with each other.
//! This backend is as plain as the definitions, and as slow. The model around the operations and the decoder of stored
//! weights are those of all backends. It is built for tests and shipped with nothing.

mod operations;
mod ops;
mod tokens;
mod weights;

use qbench_architectures::{ARCHITECTURES, DecoderModel};
use qbench_sdk::{
    Backend, DType, Layout, Model, Options, Result,
    backend::{BackendInfo, DeviceInfo, Execution, LoadRequest},
    export_plugin,
};

use crate::ops::PlainOps;

struct SecondOpinion;

impl Backend for SecondOpinion {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "second_opinion".to_owned(),
            summary: "decoders in candle's own operations, for tests".to_owned(),
            library: "candle-core 0.11.1".to_owned(),
            architectures: ARCHITECTURES.map(str::to_owned).to_vec(),
            precisions: vec![DType::F32, DType::F16, DType::BF16],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo {
            id: "cpu".to_owned(),
            name: "candle's CPU device".to_owned(),
            ..DeviceInfo::default()
        }])
    }

    fn negotiate(&self, _device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        Ok(weights::execution(layout, compute))
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        let ops = PlainOps::new(request.compute)?;
        Ok(Box::new(DecoderModel::load(
            request.config_json,
            request.weights.as_ref(),
            ops,
        )?))
    }
}

export_plugin!(backends: [|options: &Options| options.finish(&[]).map(|()| SecondOpinion)]);
