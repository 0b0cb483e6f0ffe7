//! Small random decoders: caches, padding, threads, names.

use std::sync::Arc;

use qbench_sdk::{
    Backend, DType, Layout, Model, Result,
    backend::{Cache, ForwardOutput, LayerOutput, LoadRequest, LogitRows, TokenBatch},
    layout::{BlockCodebook, Blocks, Int8Vectorwise, NibbleOrder, Scale},
};

use super::support::{MemoryTensor, MemoryWeights, Random};
use crate::{CpuBackend, Kernels};
use qbench_cpu_kernels::InstructionSet;

/// States and logits of size 1 after two layers, added up in another order.
const ORDER_TOLERANCE: f32 = 2e-5;

const VOCAB: usize = 50;
const HIDDEN: usize = 24;

/// How the matrices of a test model are stored.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Dense,
    Codebook,
    Int8,
}

struct Fixture {
    config: serde_json::Value,
    prefix: &'static str,
    store: Store,
}

impl Fixture {
    /// Two layers of `heads` heads sharing `kv_heads`, each `head_dim` wide.
    fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let config = serde_json::json!({
            "model_type": "mistral", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "head_dim": head_dim, "sliding_window": null,
        });
        Self {
            config,
            prefix: "model.",
            store: Store::Dense,
        }
    }

    fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    fn stored(mut self, store: Store) -> Self {
        self.store = store;
        self
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    fn matrix(&self, rows: usize, cols: usize, random: &mut Random) -> MemoryTensor {
        let values = random.normal(rows * cols, 0.3);
        match self.store {
            Store::Dense => MemoryTensor::dense(rows, cols, DType::F32, &values),
            Store::Codebook => {
                let layout = Layout::BlockCodebook(BlockCodebook {
                    rows,
                    cols,
                    bits: 4,
                    order: NibbleOrder::HighFirst,
                    blocks: Blocks::Flat,
                    block: 64,
                    scale: Scale::F32,
                });
                let mut tensor = MemoryTensor::random(layout, random);
                // Values of size 0.3 at most: a codebook of size 0.1 times scales of size 0.1 would be too faint.
                for value in tensor.buffers[2].as_chunks_mut::<4>().0 {
                    *value = 3.0_f32.to_le_bytes();
                }
                tensor
            }
            Store::Int8 => {
                MemoryTensor::random(Layout::Int8Vectorwise(Int8Vectorwise { rows, cols }), random)
            }
        }
    }

    fn weights(&self) -> MemoryWeights {
        let mut random = Random::new(11);
        let mut weights = MemoryWeights::default();
        let (heads, kv) = (self.size("num_attention_heads"), self.size("num_key_value_heads"));
        let (dim, inner) = (self.size("head_dim"), self.size("intermediate_size"));
        let mut put = |name: String, tensor| weights.0.insert(name, tensor);
        let prefix = self.prefix;
        let dense = |rows, cols, mean: f32, random: &mut Random| {
            let values: Vec<f32> = random.normal(rows * cols, 0.3).iter().map(|v| v + mean).collect();
            MemoryTensor::dense(rows, cols, DType::F32, &values)
        };
        put(
            format!("{prefix}embed_tokens.weight"),
            dense(VOCAB, HIDDEN, 0.0, &mut random),
        );
        put(format!("{prefix}norm.weight"), dense(1, HIDDEN, 1.0, &mut random));
        put(
            "lm_head.weight".to_owned(),
            dense(VOCAB, HIDDEN, 0.0, &mut random),
        );
        for layer in 0..self.size("num_hidden_layers") {
            let name = |part: &str| format!("{prefix}layers.{layer}.{part}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                put(
                    name(&format!("{norm}.weight")),
                    dense(1, HIDDEN, 1.0, &mut random),
                );
            }
            for (part, rows, cols) in [
                ("self_attn.q_proj", heads * dim, HIDDEN),
                ("self_attn.k_proj", kv * dim, HIDDEN),
                ("self_attn.v_proj", kv * dim, HIDDEN),
                ("self_attn.o_proj", HIDDEN, heads * dim),
                ("mlp.gate_proj", inner, HIDDEN),
                ("mlp.up_proj", inner, HIDDEN),
                ("mlp.down_proj", HIDDEN, inner),
            ] {
                put(
                    name(&format!("{part}.weight")),
                    self.matrix(rows, cols, &mut random),
                );
                put(name(&format!("{part}.bias")), dense(1, rows, 0.0, &mut random));
            }
        }
        weights
    }

    fn load(&self, compute: DType, threads: usize) -> Box<dyn Model> {
        self.try_load(self.weights(), compute, threads).unwrap()
    }

    fn try_load(&self, weights: MemoryWeights, compute: DType, threads: usize) -> Result<Box<dyn Model>> {
        CpuBackend::new(Kernels::Own(InstructionSet::best())).load(LoadRequest {
            config_json: &self.config.to_string(),
            weights: Arc::new(weights),
            device: "cpu",
            compute,
            threads,
        })
    }
}

fn batch<'a>(ids: &'a [u32], mask: &'a [u8], sequences: usize, cache: Cache) -> TokenBatch<'a> {
    TokenBatch {
        ids,
        mask,
        batch: sequences,
        length: ids.len() / sequences,
        cache,
    }
}

/// Last hidden states and all logits of a pass.
fn run(model: &mut dyn Model, batch: TokenBatch<'_>) -> (Vec<f32>, Vec<f32>) {
    let rows = batch.ids.len();
    let (mut states, mut logits) = (vec![f32::NAN; rows * HIDDEN], vec![f32::NAN; rows * VOCAB]);
    let mut output = ForwardOutput {
        hidden: vec![LayerOutput {
            layer: 2,
            data: &mut states,
        }],
        pooled: Vec::new(),
        logits: Some((LogitRows::All, &mut logits)),
    };
    model.forward(batch, &mut output).unwrap();
    (states, logits)
}

fn ids(count: usize) -> Vec<u32> {
    let mut random = Random::new(5);
    (0..count)
        .map(|_| (random.next() % VOCAB as u64) as u32)
        .collect()
}

fn assert_near(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert!(
            (a - b).abs() <= ORDER_TOLERANCE * b.abs().max(1.0),
            "{what}: {a} {b}"
        );
    }
}

#[test]
fn a_cached_pass_continues_the_one_before() {
    for fixture in [
        Fixture::new(3, 1, 256),
        Fixture::new(4, 2, 128),
        Fixture::new(2, 2, 6).with("sliding_window", 4),
        Fixture::new(2, 1, 8).stored(Store::Codebook),
    ] {
        let mut model = fixture.load(DType::F32, 2);
        let tokens = ids(2 * 12);
        // The second sequence is padded on the left.
        let mut mask = vec![1; 24];
        mask[12..15].fill(0);
        let (states, logits) = run(model.as_mut(), batch(&tokens, &mask, 2, Cache::None));
        let part = |values: &[f32], width: usize, from: usize, to: usize| -> Vec<f32> {
            [0, 12]
                .iter()
                .flat_map(|start| &values[(start + from) * width..(start + to) * width])
                .copied()
                .collect()
        };
        for (from, to) in [(0, 7), (7, 8), (8, 12)] {
            let new: Vec<u32> = [0, 12]
                .iter()
                .flat_map(|start| &tokens[start + from..start + to])
                .copied()
                .collect();
            let seen: Vec<u8> = [0, 12]
                .iter()
                .flat_map(|start| &mask[*start..start + to])
                .copied()
                .collect();
            let cache = if from == 0 { Cache::Start } else { Cache::Continue };
            let (s, l) = run(model.as_mut(), batch(&new, &seen, 2, cache));
            assert_near(&s, &part(&states, HIDDEN, from, to), "states");
            assert_near(&l, &part(&logits, VOCAB, from, to), "logits");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for store in [Store::Dense, Store::Codebook, Store::Int8] {
        for compute in [DType::F32, DType::BF16, DType::F16] {
            let fixture = Fixture::new(4, 2, 16).stored(store);
            let tokens = ids(3 * 100);
            let mask = vec![1; 300];
            let one = run(
                fixture.load(compute, 1).as_mut(),
                batch(&tokens, &mask, 3, Cache::None),
            );
            let mut model = fixture.load(compute, 2);
            for _ in 0..2 {
                assert_eq!(one, run(model.as_mut(), batch(&tokens, &mask, 3, Cache::None)));
            }
        }
    }
}

#[test]
fn a_padded_batch_is_its_sequences() {
    for store in [Store::Dense, Store::Codebook] {
        let mut model = Fixture::new(4, 2, 16).stored(store).load(DType::F32, 2);
        let tokens = ids(20);
        let short = &tokens[3..15];
        let (single_states, single_logits) = run(model.as_mut(), batch(short, &[1; 12], 1, Cache::None));
        // Rows: padded on the right, padded on the left, nothing but padding.
        let mut all = vec![0; 3 * 20];
        let mut mask = vec![0; 3 * 20];
        all[..12].copy_from_slice(short);
        mask[..12].fill(1);
        all[28..40].copy_from_slice(short);
        mask[28..40].fill(1);
        let (states, logits) = run(model.as_mut(), batch(&all, &mask, 3, Cache::None));
        for start in [0, 28] {
            assert_near(
                &states[start * HIDDEN..(start + 12) * HIDDEN],
                &single_states,
                "states",
            );
            assert_near(
                &logits[start * VOCAB..(start + 12) * VOCAB],
                &single_logits,
                "logits",
            );
        }
        assert!(states.iter().chain(&logits).all(|value| value.is_finite()));

        let mut pooled = vec![f32::NAN; 3 * HIDDEN];
        let mut output = ForwardOutput {
            pooled: vec![LayerOutput {
                layer: 2,
                data: &mut pooled,
            }],
            ..ForwardOutput::default()
        };
        model
            .forward(batch(&all, &mask, 3, Cache::None), &mut output)
            .unwrap();
        let mean: Vec<f32> = (0..HIDDEN)
            .map(|i| single_states.iter().skip(i).step_by(HIDDEN).sum::<f32>() / 12.0)
            .collect();
        assert_near(&pooled[..HIDDEN], &mean, "pooled");
        assert_near(&pooled[HIDDEN..2 * HIDDEN], &mean, "pooled");
        assert_eq!(pooled[2 * HIDDEN..], [0.0; HIDDEN]);
    }
}

#[test]
fn states_and_logits_are_the_ones_asked_for() {
    let fixture = Fixture::new(2, 2, 12);
    let mut model = fixture.load(DType::F32, 1);
    let tokens = ids(2 * 5);
    let (states, logits) = run(model.as_mut(), batch(&tokens, &[1; 10], 2, Cache::None));
    let (mut embedded, mut middle) = (vec![f32::NAN; 10 * HIDDEN], vec![f32::NAN; 10 * HIDDEN]);
    let mut last = vec![f32::NAN; 2 * VOCAB];
    let mut output = ForwardOutput {
        hidden: vec![
            LayerOutput {
                layer: 1,
                data: &mut middle,
            },
            LayerOutput {
                layer: 0,
                data: &mut embedded,
            },
        ],
        pooled: Vec::new(),
        logits: Some((LogitRows::Last, &mut last)),
    };
    model
        .forward(batch(&tokens, &[1; 10], 2, Cache::None), &mut output)
        .unwrap();
    let table = fixture.weights().0["model.embed_tokens.weight"].decoded(DType::F32);
    for (row, id) in tokens.iter().enumerate() {
        let start = *id as usize * HIDDEN;
        assert_eq!(
            embedded[row * HIDDEN..(row + 1) * HIDDEN],
            table[start..start + HIDDEN]
        );
    }
    assert!(middle.iter().all(|value| value.is_finite()));
    assert!(middle != embedded && middle != states);
    assert_near(&last[..VOCAB], &logits[4 * VOCAB..5 * VOCAB], "last logits");
    assert_near(&last[VOCAB..], &logits[9 * VOCAB..], "last logits");
    // The logits are the head times the last state.
    let head = fixture.weights().0["lm_head.weight"].decoded(DType::F32);
    let dot: f32 = head[..HIDDEN].iter().zip(&states).map(|(a, b)| a * b).sum();
    assert_near(&[dot], &logits[..1], "first logit");
}

#[test]
fn names_ties_biases_and_windows_matter_as_they_should() {
    let tokens = ids(9);
    let go = |fixture: &Fixture, weights: MemoryWeights| {
        let mut model = fixture.try_load(weights, DType::F32, 1).unwrap();
        run(model.as_mut(), batch(&tokens, &[1; 9], 1, Cache::None))
    };
    let plain = Fixture::new(2, 1, 8);
    let expected = go(&plain, plain.weights());

    let mut bare = Fixture::new(2, 1, 8);
    bare.prefix = "";
    assert_eq!(go(&bare, bare.weights()), expected, "without the prefix");

    // Tied: the head is the table, whether or not the file has a head.
    let tied = Fixture::new(2, 1, 8).with("tie_word_embeddings", true);
    let mut copied = plain.weights();
    let table = copied.0["model.embed_tokens.weight"].decoded(DType::F32);
    copied.0.insert(
        "lm_head.weight".to_owned(),
        MemoryTensor::dense(VOCAB, HIDDEN, DType::F32, &table),
    );
    let mut headless = plain.weights();
    headless.0.remove("lm_head.weight");
    assert_eq!(go(&tied, headless), go(&plain, copied));

    // Mistral has no biases; Llama has them where its configuration says so.
    let llama = |attention: bool, mlp: bool| {
        let fixture = Fixture::new(2, 1, 8)
            .with("model_type", "llama")
            .with("attention_bias", attention)
            .with("mlp_bias", mlp);
        go(&fixture, fixture.weights())
    };
    assert_eq!(llama(false, false), expected);
    assert!(llama(true, false) != expected && llama(false, true) != expected);

    let window = |size: usize| {
        go(
            &Fixture::new(2, 1, 8).with("sliding_window", size),
            plain.weights(),
        )
    };
    assert_eq!(window(9), expected, "a window that hides nothing");
    let narrow = window(3);
    assert_eq!(narrow.0[..3 * HIDDEN], expected.0[..3 * HIDDEN]);
    assert!(narrow.0[3 * HIDDEN..4 * HIDDEN] != expected.0[3 * HIDDEN..4 * HIDDEN]);
}

#[test]
fn errors_name_the_tensor_and_both_shapes() {
    let fixture = Fixture::new(2, 1, 8);
    let error = |weights: MemoryWeights| {
        fixture
            .try_load(weights, DType::F32, 1)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    for name in [
        "lm_head.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.norm.weight",
    ] {
        let mut weights = fixture.weights();
        weights.0.remove(name);
        assert!(error(weights).contains(name));
    }
    let mut weights = fixture.weights();
    let wrong = MemoryTensor::dense(3, 4, DType::F32, &[0.0; 12]);
    weights
        .0
        .insert("model.layers.0.self_attn.k_proj.weight".to_owned(), wrong);
    let text = error(weights);
    assert!(
        text.contains("layers.0.self_attn.k_proj") && text.contains("8 x 24") && text.contains("3 x 4"),
        "{text}"
    );
    assert!(error(MemoryWeights::default()).contains("embed_tokens"));

    // A bare decoder without a head runs, but has no logits.
    let mut bare = Fixture::new(2, 1, 8);
    bare.prefix = "";
    let mut weights = bare.weights();
    weights.0.remove("lm_head.weight");
    let mut model = bare.try_load(weights, DType::F32, 1).unwrap();
    let tokens = batch(&[1, 2], &[1, 1], 1, Cache::None);
    model.forward(tokens, &mut ForwardOutput::default()).unwrap();
    let mut logits = vec![0.0; 2 * VOCAB];
    let mut output = ForwardOutput {
        logits: Some((LogitRows::All, &mut logits)),
        ..ForwardOutput::default()
    };
    let text = model.forward(tokens, &mut output).unwrap_err().to_string();
    assert!(text.contains("lm_head.weight"), "{text}");
}

#[test]
fn impossible_batches_are_refused_and_leave_no_cache() {
    let mut model = Fixture::new(2, 1, 8).load(DType::F32, 1);
    let mut refuse = |batch: TokenBatch<'_>, what: &str| {
        let text = model
            .forward(batch, &mut ForwardOutput::default())
            .unwrap_err()
            .to_string();
        assert!(text.contains(what), "{text}");
    };
    refuse(batch(&[1, 50], &[1, 1], 1, Cache::None), "50");
    refuse(batch(&[1, 2], &[1], 1, Cache::None), "mask");
    refuse(batch(&[1, 2], &[1, 1], 1, Cache::Continue), "none was started");
    model
        .forward(
            batch(&[1, 2], &[1, 1], 1, Cache::Start),
            &mut ForwardOutput::default(),
        )
        .unwrap();
    let two = batch(&[1, 2], &[1; 6], 2, Cache::Continue);
    assert!(model.forward(two, &mut ForwardOutput::default()).is_err());
    let next = batch(&[1], &[1; 3], 1, Cache::Continue);
    let text = model
        .forward(next, &mut ForwardOutput::default())
        .unwrap_err()
        .to_string();
    assert!(text.contains("none was started"), "{text}");
    let mut short = vec![0.0; 3];
    let mut output = ForwardOutput {
        hidden: vec![LayerOutput {
            layer: 3,
            data: &mut short,
        }],
        ..ForwardOutput::default()
    };
    let one = batch(&[1], &[1], 1, Cache::None);
    assert!(
        model
            .forward(one, &mut output)
            .unwrap_err()
            .to_string()
            .contains("0 to 2")
    );
    output.hidden[0].layer = 2;
    assert!(
        model
            .forward(one, &mut output)
            .unwrap_err()
            .to_string()
            .contains("1 x 24")
    );
}

#[test]
fn a_model_tells_its_shape_its_weights_and_its_memory() {
    let mut model = Fixture::new(4, 2, 16).stored(Store::Int8).load(DType::BF16, 2);
    let info = model.info().unwrap();
    assert_eq!(
        (info.layers, info.heads, info.kv_heads, info.head_dim),
        (2, 4, 2, 16)
    );
    assert_eq!(info.weights.len(), 1 + 2 * 9 + 2);
    let of = |name: &str| info.weights.iter().find(|weight| weight.name == name).unwrap();
    let q = of("model.layers.0.self_attn.q_proj.weight");
    assert_eq!((q.rows, q.cols, q.bytes), (64, HIDDEN, 64 * 24 + 64 * 4 + 4));
    assert_eq!(q.layout, "qbench.int8-vectorwise/1");
    assert_eq!(of("lm_head.weight").bytes, (VOCAB * HIDDEN * 2) as u64);

    model.reset_peak_memory().unwrap();
    let before = model.memory().unwrap();
    let tokens = ids(4 * 200);
    model
        .forward(
            batch(&tokens, &[1; 800], 4, Cache::None),
            &mut ForwardOutput::default(),
        )
        .unwrap();
    let after = model.memory().unwrap();
    // The states of 800 tokens alone; other tests allocate at the same time, so no upper bound.
    assert!(after.peak_allocated >= before.allocated.min(after.allocated) + 800 * HIDDEN as u64 * 4);
}
