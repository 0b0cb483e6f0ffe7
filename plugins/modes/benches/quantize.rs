//! How fast each mode quantises a weight in bf16, in bytes of the source, beside a copy of the source.
//!
//! Every round measures all of them once, so that what else runs on the machine hits all alike; the medians of the
//! rounds are compared. Buffers are there already, as is their memory: a copy into new memory would measure the system.
//! `QBENCH_BENCH_THREADS` (1 and the processor's cores by default) and `QBENCH_BENCH_ROUNDS` change the run.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{env, hint::black_box, time::Instant};

use qbench_modes::{FourBit, Int8};
use qbench_sdk::{CallContext, DType, Matrix, Options, QuantScheme};

/// 32 MiB of bf16.
const ROWS: usize = 4096;
const COLS: usize = 4096;

struct Subject {
    name: String,
    run: Box<dyn FnMut()>,
    rates: Vec<f64>,
}

fn main() {
    let rounds = env::var("QBENCH_BENCH_ROUNDS").map_or(15, |text| text.parse().unwrap());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads =
        env::var("QBENCH_BENCH_THREADS").map_or_else(|_| vec![1, cores], |text| vec![text.parse().unwrap()]);
    let source = source();
    let mut subjects = vec![copy(source.clone())];
    for threads in threads {
        let none = Options::none();
        let schemes: [Box<dyn QuantScheme>; 4] = [
            Box::new(Int8::open(&none).unwrap()),
            Box::new(FourBit::open_nf4(&none).unwrap()),
            Box::new(FourBit::open_fp4(&none).unwrap()),
            Box::new(FourBit::open_nf4_double(&none).unwrap()),
        ];
        subjects.extend(
            schemes
                .into_iter()
                .map(|scheme| mode(scheme, source.clone(), threads)),
        );
    }
    // The first round warms up.
    for round in 0..=rounds {
        for subject in &mut subjects {
            let start = Instant::now();
            (subject.run)();
            if round > 0 {
                subject
                    .rates
                    .push(source.len() as f64 / start.elapsed().as_secs_f64());
            }
        }
    }
    println!("{ROWS} x {COLS} in bf16, medians of {rounds} rounds");
    let copied = median(&subjects[0].rates);
    for subject in &subjects {
        let rate = median(&subject.rates);
        println!(
            "{:32} {:6.2} GB/s {:5.2} of the copy",
            subject.name,
            rate / 1e9,
            rate / copied
        );
    }
}

/// Weights as they are before training: normal, a fiftieth wide, by the sum of twelve uniform numbers.
fn source() -> Vec<u8> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..ROWS * COLS)
        .flat_map(|_| {
            let sum: f32 = (0..12).map(|_| uniform()).sum();
            half::bf16::from_f32((sum - 6.0) / 50.0).to_le_bytes()
        })
        .collect()
}

fn copy(source: Vec<u8>) -> Subject {
    let mut to = vec![0; source.len()];
    Subject {
        name: "copy of the source, one thread".to_owned(),
        run: Box::new(move || {
            to.copy_from_slice(black_box(&source));
            black_box(&to);
        }),
        rates: Vec::new(),
    }
}

fn mode(scheme: Box<dyn QuantScheme>, source: Vec<u8>, threads: usize) -> Subject {
    let layout = scheme.layout(ROWS, COLS, DType::BF16).unwrap();
    let mut buffers: Vec<Vec<u8>> = layout.buffers().iter().map(|spec| vec![0; spec.bytes]).collect();
    Subject {
        name: format!("{}, threads: {threads}", scheme.info().id),
        run: Box::new(move || {
            let mut buffers: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            let matrix = Matrix::new(&source, ROWS, COLS, DType::BF16).unwrap();
            scheme
                .quantize(matrix, &layout, &mut buffers, CallContext { threads })
                .unwrap();
        }),
        rates: Vec::new(),
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
