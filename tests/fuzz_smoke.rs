//! A short fuzzing run of every parser of ours, with the stable toolchain: good inputs, mutated at random from a fixed
//! seed. `fuzz/` has the same targets for cargo-fuzz, which finds more in more time.
//!
//! `QBENCH_FUZZ_INPUTS` sets the number of inputs a target, `QBENCH_FUZZ_SEED` the seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "fuzz/targets.rs"]
mod targets;

use std::{
    env, fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use qbench_core::results::{Performance, Quality, RECORD_SCHEMA, Record};
use qbench_tests::repository;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde_json::json;

/// Inputs a target without `QBENCH_FUZZ_INPUTS`: some seconds for all.
const INPUTS: u64 = 1000;
/// Longest input, in bytes.
const MAX_INPUT: usize = 64 << 10;
/// What breaks parsers: ends of ranges, and pieces of the formats.
const TOKENS: [&str; 20] = [
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "4294967296",
    "null",
    "[]",
    "{}",
    "\"\"",
    "\"",
    "\n",
    ",",
    ">",
    "\t",
    "\u{0}",
    "\u{feff}",
    "NaN",
    "true",
];

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Good inputs of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let text = |text: &str| text.as_bytes().to_vec();
    let file = |path: &str| fs::read(repository().join(path)).unwrap();
    match target {
        "layout" => vec![
            text(r#"{"kind":"qbench.dense/1","rows":3,"cols":5,"dtype":"bf16"}"#),
            text(
                r#"{"kind":"qbench.block-codebook/1","rows":3,"cols":65,"bits":4,"order":"high_first","blocks":"flat","block":64,"scale":{"type":"coded","block":256}}"#,
            ),
            text(
                r#"{"kind":"qbench.block-codebook/1","rows":3,"cols":65,"bits":8,"order":"low_first","blocks":"per_row","block":32,"scale":{"type":"f32"}}"#,
            ),
            text(r#"{"kind":"qbench.int8-vectorwise/1","rows":3,"cols":5}"#),
            text(
                r#"{"kind":"org.example.other/1","rows":3,"cols":5,"buffers":[{"name":"codes","bytes":15,"dtype":"u8"}],"parameters":{"group":[1]}}"#,
            ),
        ],
        "kernel" => vec![
            text("block=128,threshold=6.5"),
            text(
                r#"{"name":"k","source":{"language":"cuda_c","text":"__global__"},"entries":{"f32":"k","bf16":"k_bf16"},"geometry":{"threads":256,"tile_rows":1,"tile_cols":1024,"shared_bytes":0},"constants":[-3,7]}"#,
            ),
        ],
        "sidecar" => vec![text(
            r#"{"schema":"qbench.plugin/1","sha256":"00","abi":"c 1","manifest":{"name":"p","version":"1","license":"MIT","sdk":""},"schemes":[{"id":"s","aliases":["t"],"summary":"","options":[["group","64"]]}],"backends":[{"id":"b","summary":"","library":"","architectures":["llama"],"precisions":["f32"]}]}"#,
        )],
        "config" => ["llama", "mistral"]
            .iter()
            .map(|model| file(&format!("tests/fixtures/transformers/{model}/config.json")))
            .chain([file("examples/go-mini-12m/config.json")])
            .collect(),
        "checkpoint" => vec![
            file("tests/fixtures/bitsandbytes/q4_t1x7.safetensors"),
            text(
                r#"{"metadata":{"total_size":28},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"../model-00002-of-00002.safetensors"}}"#,
            ),
        ],
        "library" => {
            vec![fs::read(qbench_tests::plugin("libtestplugin_other_abi.so")).unwrap()[..4096].to_vec()]
        }
        "tokenizer" => vec![text(TOKENIZER)],
        "reference" => vec![text(
            r#"{"label":{"identity":{},"origin":{"device":"cpu"}},"vocabulary":3,"hidden":2,"tokens":[2],"sliding":[{"predicted":1,"nll":0.5}]}"#,
        )],
        "trace" => vec![text(
            r#"{"source":"a card","pace":{"every":{"secs":0,"nanos":20000000}},"readings":[{"seconds":0.0,"counter_joules":1.0,"watts":50.0,"throttle":[]},{"seconds":0.5,"counter_joules":26.0,"watts":null,"celsius":40.0,"throttle":["power"]},{"seconds":1.0,"counter_joules":76.0,"watts":100.0,"throttle":[]}],"idle_before":{"start":0.0,"end":0.4},"work":{"start":0.4,"end":0.9},"idle_after":null}"#,
        )],
        "sequences" => vec![
            gzip(b">a\nACGTTTTTTTTTTTTTTTTTTTTTTT\n"),
            text("genome_id,seq\ne_coli,ACGTNNacgt\n\"b,c\",\"RYKM\"\n"),
            text("genome_id\tseq\te\na\tACGT\tx\n"),
            text(">a b c\nACGT\nACGT\n>d\r\nNNNNA\r\n"),
        ],
        "journal" | "attempt" => vec![records()],
        "sweep" => vec![text(targets::SWEEP), text(targets::TASKS)],
        "plan" => ["models-on-gpus", "modes-and-lengths"]
            .iter()
            .map(|plan| file(&format!("examples/plans/{plan}.toml")))
            .chain([text(PLAN)])
            .collect(),
        "tables" => [
            "mixed/benchmark_20250102_090000.csv",
            "mixed/performance_metrics.csv",
            "original_benchmark/analysis/quality_metrics.csv",
        ]
        .iter()
        .map(|path| file(&format!("core/tests/fixtures/results/{path}")))
        .collect(),
        other => panic!("no corpus for {other}"),
    }
}

/// A small tokenizer as the models of the field have it: byte pairs, and special tokens around them.
const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},{"id":1,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[SEP]","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"[CLS]":{"id":"[CLS]","ids":[0],"tokens":["[CLS]"]},"[SEP]":{"id":"[SEP]","ids":[1],"tokens":["[SEP]"]}}},"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{"[CLS]":0,"[SEP]":1,"A":2,"C":3,"G":4,"T":5,"N":6,"AC":7,"TT":8},"merges":[["A","C"],["T","T"]]}}"#;

/// A plan with every key.
const PLAN: &str = "name = 'x'\n[matrix]\nmodels = ['a']\ndata = ['d']\nmodes = ['8bit', 'nf4:block=128']\nbackends = \
                    ['cpu']\ndevices = ['cpu']\nprecisions = ['float32']\nconditions = ['full', 'bp=1000', 'tok=512', \
                    'bin~5000']\nbatch_sizes = [1, 4]\nseeds = [1, 2]\n[[include]]\nmodels = ['b']\n[[exclude]]\nmodels = \
                    ['*4B', '[ab]?{c,d}']\n[run]\nnum-repeats = 1\nevaluate = ['tokens']\n[slurm]\nsbatch = \
                    ['--time=10']\npreamble = 'x'\nlauncher = 'y'\nthrottle = 4\nrequeue = false\n[[slurm.group]]\nwhen = \
                    { devices = ['cuda*'] }\nsbatch = ['--gpus=1']\n[slurm.collect]\nsbatch = ['--mem=2G']\n";

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A record of either kind, one a line.
fn records() -> Vec<u8> {
    let record = |kind: &str, numbers: serde_json::Value| {
        let record = json!({
            "schema": RECORD_SCHEMA,
            "cell": {
                "kind": kind, "model": "m", "backend": "cpu", "device": "cpu", "precision": "float32",
                "mode": "4bit_nf4", "condition": "full", "batch_size": 4, "repeat": 0,
            },
            "status": "ok",
            kind: numbers,
        });
        // What was once written stays readable.
        serde_json::from_value::<Record>(record.clone()).unwrap();
        record.to_string() + "\n"
    };
    let performance = Performance {
        batch_seconds: vec![2.0, 3.0],
        sequences: 10,
        tokens: 1000,
        ..Performance::default()
    };
    [
        record("performance", serde_json::to_value(performance).unwrap()),
        record("quality", serde_json::to_value(Quality::default()).unwrap()),
    ]
    .concat()
    .into_bytes()
}

/// An input that is like one of the corpus: a few pieces overwritten, left out, repeated, or taken from another one.
fn mutated(corpus: &[Vec<u8>], random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut input = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..=16)).min(input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => drop(input.drain(at..end)),
            2 => drop(input.splice(at..at, input[at..end].to_vec())),
            3 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                drop(input.splice(at..end, token.bytes()));
            }
            4 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                let piece = other[from..(from + 64).min(other.len())].to_vec();
                drop(input.splice(at..end, piece));
            }
            _ if random.random_bool(0.1) => input.truncate(at),
            // A number in binary, as in the length that starts a safetensors file.
            _ => {
                let value: u64 = random.random::<u64>() >> random.random_range(0..64);
                for (byte, new) in input[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
        }
    }
    input.truncate(MAX_INPUT);
    input
}

fn fuzz(target: &str, parse: fn(&[u8])) {
    let seed = number("QBENCH_FUZZ_SEED", 42);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let corpus = corpus(target);
    let mutants = (0..number("QBENCH_FUZZ_INPUTS", INPUTS)).map(|_| mutated(&corpus, &mut random));
    for (index, input) in corpus.clone().into_iter().chain(mutants).enumerate() {
        if catch_unwind(AssertUnwindSafe(|| parse(&input))).is_err() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{seed}-{index}"));
            fs::write(&kept, &input).unwrap();
            panic!(
                "target {target} panicked on input {index} of seed {seed}, kept in {}: {}",
                kept.display(),
                input.escape_ascii()
            );
        }
    }
}

#[test]
fn no_parser_panics() {
    // What asks for memory without bound fails here, not on the machine.
    let limit = rustix::process::Rlimit {
        current: Some(8 << 30),
        maximum: Some(8 << 30),
    };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
    for (name, parse) in targets::TARGETS {
        fuzz(name, parse);
    }
}
