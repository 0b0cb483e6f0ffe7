//! A backend that passes another backend's outputs on, altered on request.
//!
//! `QBENCH_TEST_BACKEND` is the file of the other backend, `cpu`. `QBENCH_TEST_OUTPUT` says what becomes of its logits:
//! `swap` exchanges those of two tokens at every position, `constant` replaces all outputs by numbers that depend on the
//! input alone, `nan` makes one logit of each pass NaN, `noise` adds a little that differs between processes.

use std::{env, mem::ManuallyDrop, process};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use qbench_sdk::{
    Backend, DType, Error, Layout, Model, Options, Result,
    backend::{
        BackendInfo, DeviceInfo, Execution, ForwardOutput, LoadRequest, Memory, ModelInfo, TokenBatch,
    },
    export_plugin,
    host::{HEADER_SYMBOL, Header, Plugin},
};

/// Two tokens of DNA that are common enough to be predicted.
const SWAPPED: [usize; 2] = [5, 6];

struct Altering(Box<dyn Backend>);

struct AlteredModel {
    inner: Box<dyn Model>,
    output: String,
}

fn open(options: &Options) -> Result<Altering> {
    options.finish(&[])?;
    let path = env::var("QBENCH_TEST_BACKEND").map_err(|error| Error::InvalidArgument(error.to_string()))?;
    let failed = |error: libloading::Error| Error::InvalidArgument(format!("{path}: {error}"));
    // SAFETY: the test names the backend that was built beside; its initialisers only register it.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    let library = ManuallyDrop::new(library);
    // SAFETY: a library that exports this symbol was made by abi_stable, which exports its header there.
    let header = unsafe { library.get::<Header>(HEADER_SYMBOL.as_bytes()) }.map_err(failed)?;
    let plugin = Plugin::open(*header).map_err(|error| Error::InvalidArgument(error.to_string()))?;
    Ok(Altering(plugin.open_backend("cpu", &Options::default())?))
}

impl Backend for Altering {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "altering".to_owned(),
            ..self.0.info()
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.0.devices()
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        self.0.negotiate(device, layout, compute)
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        Ok(Box::new(AlteredModel {
            inner: self.0.load(request)?,
            output: env::var("QBENCH_TEST_OUTPUT").unwrap_or_default(),
        }))
    }
}

impl Model for AlteredModel {
    fn info(&self) -> Result<ModelInfo> {
        self.inner.info()
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        let vocabulary = self.inner.info()?.vocab_size;
        self.inner.forward(batch, output)?;
        let pooled = output.pooled.iter_mut().chain(&mut output.hidden);
        if self.output == "constant" {
            pooled.for_each(|layer| fill(layer.data, batch.ids));
        }
        let Some((_, logits)) = &mut output.logits else {
            return Ok(());
        };
        match self.output.as_str() {
            "swap" => {
                let [one, other] = SWAPPED;
                logits
                    .chunks_exact_mut(vocabulary)
                    .for_each(|row| row.swap(one, other));
            }
            "constant" => fill(logits, batch.ids),
            "nan" => logits[0] = f32::NAN,
            "noise" => logits[0] += 1.0 + process::id() as f32 % 97.0,
            _ => {}
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        self.inner.synchronize()
    }

    fn memory(&self) -> Result<Memory> {
        self.inner.memory()
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        self.inner.reset_peak_memory()
    }
}

/// Small numbers that depend on the tokens and the place.
fn fill(values: &mut [f32], ids: &[u32]) {
    for (index, value) in values.iter_mut().enumerate() {
        let id = ids[index % ids.len()] as usize;
        *value = ((id * 31 + index * 17) % 101) as f32 / 101.0;
    }
}

export_plugin!(backends: [open]);
