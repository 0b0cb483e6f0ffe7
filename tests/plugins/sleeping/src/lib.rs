//! A backend that sleeps instead of computing and says by its own clock for how long: what the harness measures can be
//! held against it.
//!
//! The environment variable `QBENCH_TEST_SLEEP_US` is the time of a batch in microseconds.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use qbench_sdk::{
    Backend, DType, Layout, Model, Options, Result,
    backend::{
        BackendInfo, DeviceInfo, Execution, ForwardOutput, LoadRequest, Memory, ModelInfo, TokenBatch,
    },
    export_plugin,
};

struct Sleeping;

fn open(options: &Options) -> Result<Sleeping> {
    options.finish(&[]).map(|()| Sleeping)
}

impl Backend for Sleeping {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "sleeping".to_owned(),
            summary: "sleeps".to_owned(),
            library: "none".to_owned(),
            architectures: vec!["mistral".to_owned()],
            precisions: vec![DType::F32],
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let device = |id: &str, name: String| DeviceInfo {
            id: id.to_owned(),
            name,
            ..DeviceInfo::default()
        };
        // Which GPU a process was given is seen by the device's name.
        let visible = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        Ok(vec![
            device("cpu", "bed".to_owned()),
            device("gpu:0", format!("bed {visible}")),
        ])
    }

    fn negotiate(&self, _device: &str, _layout: &Layout, _compute: DType) -> Result<Execution> {
        Ok(Execution::Native {
            kernel: "sleep".to_owned(),
        })
    }

    fn load(&self, _request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        let microseconds = env::var("QBENCH_TEST_SLEEP_US").ok();
        Ok(Box::new(Bed {
            sleep: Duration::from_micros(microseconds.and_then(|text| text.parse().ok()).unwrap_or(1000)),
            slept: None,
        }))
    }
}

struct Bed {
    sleep: Duration,
    slept: Option<Duration>,
}

impl Model for Bed {
    fn info(&self) -> Result<ModelInfo> {
        Ok(ModelInfo {
            architecture: "mistral".to_owned(),
            vocab_size: 4096,
            hidden_size: 8,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            intermediate_size: 8,
            max_positions: 1024,
            ..ModelInfo::default()
        })
    }

    fn forward(&mut self, _batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        let start = Instant::now();
        for layer in output.hidden.iter_mut().chain(&mut output.pooled) {
            layer.data.fill(0.0);
        }
        thread::sleep(self.sleep);
        self.slept = Some(start.elapsed());
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    fn device_seconds(&mut self) -> Result<Option<f64>> {
        Ok(self.slept.map(|slept| slept.as_secs_f64()))
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            measured_by: "nobody, nothing is held".to_owned(),
            ..Memory::default()
        })
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        Ok(())
    }
}

export_plugin!(backends: [open]);
