//! Prefill and decode of a decoder in the shape of GenomeOcean-100M with random weights, through the real plugins: each
//! mode by the cpu backend's kernels beside its reference, interleaved in one run.
//!
//! Prints tokens per second of wall time and of processor time (all threads together): on a machine that other programs
//! use, the second is the one that can be compared. `QBENCH_BENCH_THREADS`, `QBENCH_BENCH_ROUNDS`, `QBENCH_BENCH_PROMPT`,
//! `QBENCH_BENCH_NEW` and `QBENCH_BENCH_PAST` (tokens: of the prompt, one at a time, and in the cache before those),
//! `QBENCH_BENCH_KERNELS` (such as `own`) and `QBENCH_BENCH_MODES` (such as `standard/bfloat16,8bit/float32`) change the
//! run.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{env, sync::Arc, time::Instant};

use qbench::plugins::load;
use qbench_core::checkpoint::{Checkpoint, ModulePolicy, StoredWeights};
use qbench_sdk::{
    DType, Model, Options,
    backend::{Cache, ForwardOutput, LayerOutput, LoadRequest, LogitRows, TokenBatch},
};
use qbench_tests::plugin;

const CONFIG: &str = r#"{"model_type": "mistral", "vocab_size": 4096, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 96,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": null,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#;

/// Tokens of the prompt; and of those that come one at a time, and that are in the cache before them.
#[derive(Clone, Copy)]
struct Tokens {
    prompt: usize,
    past: usize,
    new: usize,
}

struct Subject {
    name: String,
    model: Box<dyn Model>,
    prefill: Rates,
    decode: Rates,
}

#[derive(Default)]
struct Rates {
    wall: Vec<f64>,
    processor: Vec<f64>,
}

impl Rates {
    fn time(&mut self, tokens: usize, run: impl FnOnce()) {
        let (start, used) = (Instant::now(), processor_seconds());
        run();
        self.wall.push(tokens as f64 / start.elapsed().as_secs_f64());
        self.processor.push(tokens as f64 / (processor_seconds() - used));
    }
}

fn main() {
    let number = |name: &str, default: usize| env::var(name).map_or(default, |text| text.parse().unwrap());
    let (threads, rounds) = (
        number("QBENCH_BENCH_THREADS", 2),
        number("QBENCH_BENCH_ROUNDS", 5),
    );
    let tokens = Tokens {
        prompt: number("QBENCH_BENCH_PROMPT", 1000),
        // A short prompt, as peers' decode tests have.
        past: number("QBENCH_BENCH_PAST", 16),
        new: number("QBENCH_BENCH_NEW", 32),
    };
    let kernels = env::var("QBENCH_BENCH_KERNELS").unwrap_or_else(|_| "own,reference".to_owned());
    let modes = env::var("QBENCH_BENCH_MODES").unwrap_or_else(|_| {
        "standard/float32,standard/bfloat16,8bit/bfloat16,4bit_nf4/bfloat16,4bit_fp4/bfloat16,\
         4bit_nf4_double/bfloat16"
            .to_owned()
    });
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("go-100m.json");
    std::fs::write(&config, CONFIG).unwrap();
    let mut subjects: Vec<Subject> = modes
        .split(',')
        .flat_map(|mode| kernels.split(',').map(move |kernels| (mode, kernels)))
        .map(|(mode, kernels)| {
            let (scheme, precision) = mode.split_once('/').unwrap();
            Subject {
                name: format!("{scheme} {precision} {kernels}"),
                model: open(&config, scheme, precision, kernels, threads),
                prefill: Rates::default(),
                decode: Rates::default(),
            }
        })
        .collect();
    for round in 0..=rounds {
        for subject in &mut subjects {
            measure(subject, tokens);
            if round == 0 {
                // The first round warms up.
                (subject.prefill, subject.decode) = Default::default();
            }
        }
    }
    println!("{threads} threads, medians of {rounds} rounds, tokens/s: wall (processor)");
    for subject in &subjects {
        println!(
            "{:36} prefill {} {:8.0} ({:8.0})   decode {} after {} {:8.1} ({:8.1})",
            subject.name,
            tokens.prompt,
            median(&subject.prefill.wall),
            median(&subject.prefill.processor),
            tokens.new,
            tokens.past,
            median(&subject.decode.wall),
            median(&subject.decode.processor),
        );
    }
}

fn open(
    config: &std::path::Path,
    scheme: &str,
    precision: &str,
    kernels: &str,
    threads: usize,
) -> Box<dyn Model> {
    let scheme = load(&plugin("libqbench_modes.so"))
        .unwrap()
        .open_scheme(scheme, &Options::none())
        .unwrap();
    let options = match kernels {
        "own" => Options::none(),
        other => Options::parse(&format!("kernels={other}")).unwrap(),
    };
    let backend = load(&plugin("libqbench_cpu.so"))
        .unwrap()
        .open_backend("cpu", &options)
        .unwrap();
    let compute = match precision {
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        other => panic!("precision {other}"),
    };
    let checkpoint = Arc::new(Checkpoint::synthetic(config, 1).unwrap());
    let policy = ModulePolicy::new(&[], &[]).unwrap();
    let weights = StoredWeights::new(checkpoint.clone(), Arc::from(scheme), &policy, compute, threads);
    backend
        .load(LoadRequest {
            config_json: checkpoint.config_text(),
            weights: Arc::new(weights.unwrap()),
            device: "cpu",
            compute,
            threads,
        })
        .unwrap()
}

fn measure(subject: &mut Subject, Tokens { prompt, past, new }: Tokens) {
    let Subject {
        model,
        prefill,
        decode,
        ..
    } = subject;
    let info = model.info().unwrap();
    let ids: Vec<u32> = (0..prompt.max(past))
        .map(|index| (index * 37 % info.vocab_size) as u32)
        .collect();
    let mask = vec![1; prompt.max(past) + new];
    let mut pooled = vec![0.0; info.hidden_size];
    let mut pass = |length: usize, past: usize, cache: Cache, output: &mut ForwardOutput<'_>| {
        let batch = TokenBatch {
            ids: &ids[..length],
            mask: &mask[..past + length],
            batch: 1,
            length,
            cache,
        };
        model.forward(batch, output).unwrap();
        model.synchronize().unwrap();
    };
    prefill.time(prompt, || {
        let mut output = ForwardOutput {
            pooled: vec![LayerOutput {
                layer: info.layers,
                data: &mut pooled,
            }],
            ..ForwardOutput::default()
        };
        pass(prompt, 0, Cache::None, &mut output);
    });
    let mut logits = vec![0.0; info.vocab_size];
    pass(past, 0, Cache::Start, &mut ForwardOutput::default());
    decode.time(new, || {
        for index in 0..new {
            let mut output = ForwardOutput {
                logits: Some((LogitRows::Last, &mut logits)),
                ..ForwardOutput::default()
            };
            pass(1, past + index, Cache::Continue, &mut output);
        }
    });
}

/// Processor time of this process, all threads together.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}
