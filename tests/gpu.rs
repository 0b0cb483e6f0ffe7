//! A backend on a GPU against the CPU backend (`agreement`), and its speed.
//!
//! Needs an NVIDIA GPU and a plugin: that of candle (`plugins/candle/with-cuda cargo build --release`), whose file
//! `$QBENCH_CANDLE_PLUGIN` names, or that of libtorch (`plugins/libtorch/with-libtorch cargo build --release`), whose file
//! `$QBENCH_LIBTORCH_PLUGIN` names; for modes of the examples, the folder of their built plugins in `$QBENCH_EXAMPLES`:
//! `cargo test -p qbench-tests --test gpu -- --ignored --nocapture --test-threads=1`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::print_stdout, reason = "the figures are what the test is run for")]

mod agreement;

use std::{env, time::Instant};

use agreement::{Engine, MODES, check_cache, check_cached, check_modes};
use qbench_core::checkpoint::ModelSource;
use qbench_sdk::{
    DType,
    backend::{Cache, ForwardOutput, LayerOutput, LogitRows, TokenBatch},
};

/// The plugin that the environment names, on the first GPU.
fn engine() -> Engine {
    [
        ("libtorch", "QBENCH_LIBTORCH_PLUGIN"),
        ("candle", "QBENCH_CANDLE_PLUGIN"),
    ]
    .into_iter()
    .find_map(|(id, variable)| {
        Some(Engine {
            id,
            file: env::var_os(variable)?.into(),
            device: "cuda:0",
        })
    })
    .expect("QBENCH_CANDLE_PLUGIN or QBENCH_LIBTORCH_PLUGIN names the plugin")
}

#[test]
#[ignore = "needs an NVIDIA GPU and a plugin for it"]
fn the_gpu_agrees_with_the_cpu() {
    check_modes(
        &engine(),
        &[DType::F32, DType::BF16, DType::F16],
        &MODES,
        |_, _, _| (),
    );
}

/// Modes of `examples/plugin-fp8` and `examples/plugin-c`.
#[test]
#[ignore = "needs an NVIDIA GPU, a plugin for it and the examples' plugins"]
fn the_gpu_agrees_with_the_cpu_on_examples() {
    check_modes(
        &engine(),
        &[DType::F32, DType::BF16, DType::F16],
        &["fp8", "c_int4", "c_ternary"],
        |mode, precision, executions| {
            println!("{mode} in {precision}: {executions:?}");
            let expected = match (mode, precision) {
                ("fp8", _) => "native: fp8_quantize, cuBLASLt e4m3".to_owned(),
                // Its kernel writes no f16.
                ("c_ternary", DType::F16) => "dequantize to f16 at load".to_owned(),
                ("c_ternary", _) => format!("scheme kernel: ternary to {precision} at each forward"),
                _ => return,
            };
            assert!(
                executions
                    .iter()
                    .all(|execution| execution.starts_with(&expected))
                    && !executions.is_empty(),
                "{mode} in {precision}: {executions:?}, expected {expected}"
            );
        },
    );
}

#[test]
#[ignore = "needs an NVIDIA GPU and a plugin for it"]
fn the_cache_goes_on_where_a_pass_ended() {
    check_cache(&engine(), &["standard", "4bit_nf4", "4bit_nf4_double"]);
}

#[test]
#[ignore = "needs an NVIDIA GPU, a plugin for it and the examples' plugins"]
fn the_cache_goes_on_in_examples() {
    for precision in [DType::F32, DType::BF16] {
        // A few tokens' products in e4m3 add in another order than those of many.
        check_cached(&engine(), "fp8", precision, 0.1);
    }
    check_cached(&engine(), "c_ternary", DType::F32, 1e-5);
    check_cached(&engine(), "c_ternary", DType::BF16, 0.05);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Embeds batches of 1024 tokens and decodes one token at a time, with random weights in bf16. `$QBENCH_SPEED` lists
/// what to run: `MODEL MODES BATCHES`, each list with commas, one line a model.
#[test]
#[ignore = "needs an NVIDIA GPU and a plugin for it"]
fn speed() {
    const LENGTH: usize = 1024;
    const PREFIX: usize = 128;
    const DECODED: usize = 40;
    let plan = env::var("QBENCH_SPEED").expect("QBENCH_SPEED says what to run");
    for line in plan.lines() {
        let [name, modes, batches] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("`{line}`: expected MODEL MODES BATCHES");
        };
        for mode in modes.split(',') {
            let start = Instant::now();
            let checkpoint = ModelSource::resolve(name).unwrap().open(0).unwrap();
            let mut model = engine().load(checkpoint, mode, DType::BF16);
            let info = model.info().unwrap();
            let held = model.memory().unwrap();
            println!(
                "{name} {mode}: loaded in {:.1} s, {:.3} GB",
                start.elapsed().as_secs_f64(),
                held.allocated as f64 / 1e9
            );
            for batch in batches.split(',').map(|batch| batch.parse::<usize>().unwrap()) {
                let ids: Vec<u32> = (0..batch * LENGTH)
                    .map(|i| (i * 7919 % info.vocab_size) as u32)
                    .collect();
                let mask = vec![1; ids.len()];
                let mut means = [(); 2].map(|()| vec![0.0; batch * info.hidden_size]);
                let (mut wall, mut device) = (Vec::new(), Vec::new());
                model.reset_peak_memory().unwrap();
                for run in 0..8 {
                    let [last, before] = &mut means;
                    let mut output = ForwardOutput {
                        pooled: vec![
                            LayerOutput {
                                layer: info.layers,
                                data: last,
                            },
                            LayerOutput {
                                layer: info.layers - 1,
                                data: before,
                            },
                        ],
                        ..ForwardOutput::default()
                    };
                    let pass = TokenBatch {
                        ids: &ids,
                        mask: &mask,
                        batch,
                        length: LENGTH,
                        cache: Cache::None,
                    };
                    let start = Instant::now();
                    model.forward(pass, &mut output).unwrap();
                    model.synchronize().unwrap();
                    if run >= 3 {
                        wall.push(start.elapsed().as_secs_f64());
                        device.push(model.device_seconds().unwrap().unwrap());
                    }
                }
                let (wall, device) = (median(wall), median(device));
                println!(
                    "{name} {mode} embed b{batch}: {:.0} tokens/s, {:.2} ms (device {:.2} ms), peak {:.3} GB",
                    (batch * LENGTH) as f64 / wall,
                    wall * 1e3,
                    device * 1e3,
                    model.memory().unwrap().peak_allocated as f64 / 1e9
                );
            }
            let mut logits = vec![0.0; info.vocab_size];
            let (mut wall, mut device) = (Vec::new(), Vec::new());
            for step in 0..=DECODED {
                let length = if step == 0 { PREFIX } else { 1 };
                let ids = vec![5; length];
                let mask = vec![1; PREFIX + step];
                let pass = TokenBatch {
                    ids: &ids,
                    mask: &mask,
                    batch: 1,
                    length,
                    cache: if step == 0 { Cache::Start } else { Cache::Continue },
                };
                let mut output = ForwardOutput {
                    logits: Some((LogitRows::Last, &mut logits)),
                    ..ForwardOutput::default()
                };
                let start = Instant::now();
                model.forward(pass, &mut output).unwrap();
                model.synchronize().unwrap();
                if step > 4 {
                    wall.push(start.elapsed().as_secs_f64());
                    device.push(model.device_seconds().unwrap().unwrap());
                }
            }
            println!(
                "{name} {mode} decode b1: {:.3} ms a token (device {:.3} ms)",
                median(wall) * 1e3,
                median(device) * 1e3
            );
        }
    }
}
