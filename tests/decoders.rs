//! Decoders of several kinds against transformers, through the host's loader: biases, tied embeddings, sliding windows,
//! shards, both forms of config.json, padding on either side, and greedy decoding with the key-value cache
//! (fixtures/transformers/generate.py).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use qbench::plugins::load;
use qbench_core::checkpoint::{Checkpoint, ModulePolicy, StoredWeights};
use qbench_sdk::{
    DType, Model, Options,
    backend::{Cache, ForwardOutput, LayerOutput, LoadRequest, LogitRows, TokenBatch},
};
use qbench_tests::{plugin, repository, second_opinion};
use safetensors::SafeTensors;

/// Largest difference, relative to the largest value: some hundred f32 roundings, in another order than torch's.
const TOLERANCE: f32 = 1e-5;

struct Fixture {
    model: Box<dyn Model>,
    expected: Vec<u8>,
}

impl Fixture {
    /// A fixture in a backend, of which the id and the plugin are told.
    fn open(name: &str, (id, file): (&str, &Path)) -> Self {
        let folder: PathBuf = repository().join("tests/fixtures/transformers").join(name);
        let none = Options::none();
        let scheme = load(&plugin("libqbench_modes.so"))
            .unwrap()
            .open_scheme("standard", &none);
        let backend = load(file).unwrap().open_backend(id, &none);
        let checkpoint = Arc::new(Checkpoint::open(&folder).unwrap());
        let weights = StoredWeights::new(
            checkpoint.clone(),
            Arc::from(scheme.unwrap()),
            &ModulePolicy::new(&[], &[]).unwrap(),
            DType::F32,
            2,
        );
        let model = backend.unwrap().load(LoadRequest {
            config_json: checkpoint.config_text(),
            weights: Arc::new(weights.unwrap()),
            device: "cpu",
            compute: DType::F32,
            threads: 2,
        });
        Self {
            model: model.unwrap(),
            expected: fs::read(folder.join("expected.safetensors")).unwrap(),
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.expected).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect()
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name);
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|id| u32::from_le_bytes(*id))
            .collect()
    }
}

/// Compares the rows of tokens; those of padding mean nothing.
fn check(values: &[f32], truth: &[f32], mask: &[u8], what: &str) {
    assert_eq!(values.len(), truth.len(), "{what}");
    let width = values.len() / mask.len();
    let largest = truth.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    for (row, _) in mask.iter().enumerate().filter(|(_, token)| **token == 1) {
        for index in row * width..(row + 1) * width {
            let (value, truth) = (values[index], truth[index]);
            assert!(
                (value - truth).abs() <= TOLERANCE * largest,
                "{what}, row {row}: {value} is not {truth}"
            );
        }
    }
}

/// Means of the rows of tokens, `[batch, width]`.
fn means(states: &[f32], mask: &[u8], batch: usize) -> Vec<f32> {
    let (length, width) = (mask.len() / batch, states.len() / mask.len());
    let mut means = vec![0.0; batch * width];
    for (row, _) in mask.iter().enumerate().filter(|(_, token)| **token == 1) {
        let sequence = row / length;
        let count: u8 = mask[sequence * length..(sequence + 1) * length].iter().sum();
        for col in 0..width {
            means[sequence * width + col] += states[row * width + col] / f32::from(count);
        }
    }
    means
}

fn states_and_logits(name: &str, backend: (&str, &Path)) {
    let mut fixture = Fixture::open(name, backend);
    let (ids, mask, batch) = (fixture.tokens("ids"), fixture.bytes("mask"), 3);
    let info = fixture.model.info().unwrap();
    let mut hidden = vec![vec![f32::NAN; ids.len() * info.hidden_size]; info.layers + 1];
    let mut pooled = vec![vec![f32::NAN; batch * info.hidden_size]; info.layers + 1];
    let mut logits = vec![f32::NAN; ids.len() * info.vocab_size];
    let wanted = |(layer, data)| LayerOutput { layer, data };
    let mut output = ForwardOutput {
        hidden: hidden
            .iter_mut()
            .map(Vec::as_mut_slice)
            .enumerate()
            .map(wanted)
            .collect(),
        pooled: pooled
            .iter_mut()
            .map(Vec::as_mut_slice)
            .enumerate()
            .map(wanted)
            .collect(),
        logits: Some((LogitRows::All, &mut logits)),
    };
    let tokens = TokenBatch {
        ids: &ids,
        mask: &mask,
        batch,
        length: ids.len() / batch,
        cache: Cache::None,
    };
    fixture.model.forward(tokens, &mut output).unwrap();
    for layer in 0..=info.layers {
        let truth = fixture.floats(&format!("hidden.{layer}"));
        check(
            &hidden[layer],
            &truth,
            &mask,
            &format!("{name}, hidden state {layer}"),
        );
        let what = format!("{name}, pooled state {layer}");
        check(&pooled[layer], &means(&truth, &mask, batch), &[1; 3], &what);
    }
    check(
        &logits,
        &fixture.floats("logits"),
        &mask,
        &format!("{name}, logits"),
    );
}

fn greedy_tokens(name: &str, backend: (&str, &Path)) {
    let mut fixture = Fixture::open(name, backend);
    let (batch, steps) = (2, 16);
    let vocab = fixture.model.info().unwrap().vocab_size;
    let (mut ids, prompt_mask) = (fixture.tokens("prompt"), fixture.bytes("prompt_mask"));
    let mut masks: Vec<Vec<u8>> = prompt_mask
        .chunks(prompt_mask.len() / batch)
        .map(<[u8]>::to_vec)
        .collect();
    let mut found = vec![Vec::new(); batch];
    for step in 0..steps {
        let mut logits = vec![f32::NAN; batch * vocab];
        let tokens = TokenBatch {
            ids: &ids,
            mask: &masks.concat(),
            batch,
            length: ids.len() / batch,
            cache: if step == 0 { Cache::Start } else { Cache::Continue },
        };
        let mut output = ForwardOutput {
            logits: Some((LogitRows::Last, &mut logits)),
            ..ForwardOutput::default()
        };
        fixture.model.forward(tokens, &mut output).unwrap();
        ids.clear();
        for (sequence, row) in logits.chunks(vocab).enumerate() {
            let best = (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            ids.push(best as u32);
            found[sequence].push(best as u32);
            masks[sequence].push(1);
        }
    }
    assert_eq!(found.concat(), fixture.tokens("greedy"), "{name}");
}

fn llama(backend: (&str, &Path)) {
    states_and_logits("llama", backend);
    greedy_tokens("llama", backend);
}

fn mistral(backend: (&str, &Path)) {
    states_and_logits("mistral", backend);
    greedy_tokens("mistral", backend);
}

#[test]
fn a_llama_with_biases_and_tied_embeddings_is_transformers() {
    llama(("cpu", &plugin("libqbench_cpu.so")));
}

#[test]
fn a_mistral_with_a_short_window_is_transformers() {
    mistral(("cpu", &plugin("libqbench_cpu.so")));
}

#[test]
#[ignore = "builds plugins/candle"]
fn both_are_transformers_in_the_second_opinion() {
    llama(("second_opinion", second_opinion()));
    mistral(("second_opinion", second_opinion()));
}
