//! Requests that no backend can serve.

use super::{BackendSubject, Cache, Opened, Outcome, Storage, on_device};
use crate::{
    DType, Model, Result,
    backend::{ForwardOutput, LoadRequest, LogitRows, TokenBatch},
    conformance::{
        golden::{CONFIG, GoldenWeights, VOCABULARY},
        report::{Broken, Ended, attempt, pass},
    },
};

fn refused<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<(), Broken> {
    match attempt(body) {
        Ended::Refused(error) if !error.to_string().trim().is_empty() => Ok(()),
        Ended::Refused(_) => Err(Broken(format!("{what} is refused without a word"))),
        Ended::Done(_) => Err(Broken(format!("{what} is not refused"))),
        Ended::Panicked(message) => Err(Broken(format!("{what} panics: {message}"))),
    }
}

pub(super) fn errors_not_panics(subject: &BackendSubject) -> Outcome {
    on_device(subject, |opened| {
        let precision = opened.precision;
        let config = |text: &str| opened.load_config(text, Storage::AsIs, precision, 1);
        refused("a config.json that is no JSON", || config("{\"model_type\""))?;
        refused("an empty config.json", || config("{}"))?;
        refused("an unknown architecture", || {
            config(&CONFIG.replace("\"llama\"", "\"no-such-model\""))
        })?;
        refused("a config.json with 0 heads", || {
            config(&CONFIG.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"))
        })?;
        refused("a vocabulary that is not the embedding's", || {
            config(&CONFIG.replace("\"vocab_size\": 64", "\"vocab_size\": 65"))
        })?;
        let weight = "model.layers.1.mlp.up_proj.weight";
        refused("a missing weight", || {
            opened.load(Storage::Without(weight), precision, 1)
        })?;
        refused("a misshapen weight", || {
            opened.load(Storage::Misshapen(weight), precision, 1)
        })?;
        refused("integers as the precision", || {
            opened.load(Storage::AsIs, DType::U8, 1)
        })?;
        refused("an unknown device", || {
            opened.backend.load(LoadRequest {
                config_json: CONFIG,
                weights: std::sync::Arc::new(GoldenWeights::new(Storage::AsIs)),
                device: "no-such-device",
                compute: precision,
                threads: 1,
            })
        })?;
        refused_batches(opened)?;
        pass()
    })
}

fn refused_batches(opened: &Opened) -> Result<(), Broken> {
    let mut model = opened.load(Storage::AsIs, opened.precision, 1)?;
    let mut run = |what: &str, ids: &[u32], mask: &[u8], room: usize, cache: Cache| {
        let model: &mut dyn Model = model.as_mut();
        let mut logits = vec![0.0; room];
        let batch = TokenBatch {
            ids,
            mask,
            batch: 1,
            length: ids.len(),
            cache,
        };
        refused(what, || {
            let mut output = ForwardOutput {
                logits: Some((LogitRows::All, &mut logits)),
                ..ForwardOutput::default()
            };
            model.forward(batch, &mut output)?;
            model.synchronize()
        })
    };
    let all = 3 * VOCABULARY;
    run(
        "a token outside the vocabulary",
        &[1, VOCABULARY as u32, 2],
        &[1; 3],
        all,
        Cache::None,
    )?;
    run("the token u32::MAX", &[1, u32::MAX, 2], &[1; 3], all, Cache::None)?;
    run("a mask that is too short", &[1, 2, 3], &[1; 2], all, Cache::None)?;
    run(
        "room for too few logits",
        &[1, 2, 3],
        &[1; 3],
        all - 1,
        Cache::None,
    )?;
    run(
        "continuing what was never started",
        &[1, 2, 3],
        &[1; 7],
        all,
        Cache::Continue,
    )
}
