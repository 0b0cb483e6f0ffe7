//! Speed of each product kernel as a share of what the machine can do, measured in the same run on one thread.
//!
//! The ceilings are a loop of independent multiply-adds of each kind and a sum over memory far larger than the caches.
//! Every round measures all of them once, so that what else runs on the machine hits all alike; the medians of the
//! rounds are compared.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod ceilings;

use std::{hint::black_box, time::Instant};

use qbench_cpu_kernels::{
    InstructionSet, Interleaved, Operand, fill,
    matrix::{self, Block, Onto, SharedMatrix, View},
    multiply,
};

const ROUNDS: usize = 15;

/// Weight rows and columns of a model with hidden size 768.
const SHAPES: [(usize, usize); 3] = [(768, 768), (3072, 768), (768, 3072)];

const TOKENS: [usize; 3] = [12, 256, 1000];

/// Something that is timed: what it does in a call, and its calls.
struct Subject {
    name: String,
    /// Operations or bytes of a call.
    work: f64,
    /// Index of the ceiling that it is compared with.
    ceiling: usize,
    run: Box<dyn FnMut()>,
    rates: Vec<f64>,
}

fn main() {
    let set = InstructionSet::from_environment().unwrap_or_else(|reason| panic!("{reason}"));
    let mut ceilings = ceilings::all(set);
    let mut subjects = Vec::new();
    for tokens in TOKENS {
        for shape in SHAPES {
            subjects.push(gemm_crate(tokens, shape));
            subjects.push(tile(set, Operand::F32, tokens, shape));
            subjects.push(tile(set, Operand::for_bf16(set), tokens, shape));
            subjects.push(tile(set, Operand::for_i8(set), tokens, shape));
        }
    }
    for _ in 0..ROUNDS {
        for ceiling in &mut ceilings {
            let start = Instant::now();
            (ceiling.run)();
            ceiling.rates.push(ceiling.work / start.elapsed().as_secs_f64());
        }
        for subject in &mut subjects {
            let start = Instant::now();
            (subject.run)();
            subject.rates.push(subject.work / start.elapsed().as_secs_f64());
        }
    }
    println!("{set}, one thread, medians of {ROUNDS} rounds");
    let peaks: Vec<f64> = ceilings.iter().map(|ceiling| median(&ceiling.rates)).collect();
    for (ceiling, peak) in ceilings.iter().zip(&peaks) {
        println!("{:44} {:8.1} G{}/s", ceiling.name, peak / 1e9, ceiling.unit);
    }
    for subject in &subjects {
        let rate = median(&subject.rates);
        println!(
            "{:44} {:8.1} Gop/s {:5.1} % of {}",
            subject.name,
            rate / 1e9,
            100.0 * rate / peaks[subject.ceiling],
            ceilings[subject.ceiling].name
        );
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn tile(set: InstructionSet, operand: Operand, tokens: usize, (rows, cols): (usize, usize)) -> Subject {
    let bytes = |count: usize| -> Vec<u8> {
        // bf16 and f32 values near one, or any codes.
        match operand {
            Operand::F32 => (0..count)
                .flat_map(|i| (1.0 + (i % 7) as f32 / 8.0).to_le_bytes())
                .collect(),
            Operand::Bf16 => (0..count)
                .flat_map(|i| (0x3f80 + (i % 9) as u16).to_le_bytes())
                .collect(),
            Operand::I16 | Operand::I8 => (0..count * operand.size()).map(|i| (i % 251) as u8).collect(),
        }
    };
    let (x, w) = (bytes(tokens * cols), bytes(rows * cols));
    let row_bytes = cols * operand.size();
    let mut interleaved = Interleaved::tokens(operand);
    let mut panel = Interleaved::panel(operand);
    let mut floats = vec![0.0_f32; tokens * rows];
    let mut integers = vec![0_i32; tokens * rows];
    let pack = move |to: &mut Interleaved, count: usize, from: &[u8]| {
        to.resize(count, cols);
        let lanes = to.lanes();
        for (first, group) in to.groups_mut() {
            let last = (first + lanes).min(count);
            fill(
                set,
                group,
                lanes,
                &from[first * row_bytes..last * row_bytes],
                row_bytes,
                0,
            );
        }
    };
    let run = move || {
        pack(&mut interleaved, tokens, &x);
        // Panels of 128 rows, as a backend's task takes them.
        let (shared_f, shared_i) = (
            SharedMatrix::new(&mut floats, tokens, rows),
            SharedMatrix::new(&mut integers, tokens, rows),
        );
        for first in (0..rows).step_by(128) {
            let last = (first + 128).min(rows);
            pack(&mut panel, last - first, &w[first * row_bytes..last * row_bytes]);
            // SAFETY: one block at a time.
            unsafe {
                match operand {
                    Operand::F32 | Operand::Bf16 => {
                        let mut block = shared_f.block(0..tokens, first..last);
                        multiply(set, &interleaved, 0..tokens, &panel, &mut block);
                    }
                    Operand::I16 | Operand::I8 => {
                        let mut block = shared_i.block(0..tokens, first..last);
                        multiply(set, &interleaved, 0..tokens, &panel, &mut block);
                    }
                }
            }
        }
        black_box(&floats);
        black_box(&integers);
    };
    Subject {
        name: format!("tile {operand:?} {tokens} x {rows} x {cols}"),
        work: 2.0 * (tokens * rows * cols) as f64,
        ceiling: match operand {
            Operand::F32 => 0,
            Operand::Bf16 => 1,
            Operand::I16 | Operand::I8 => 2,
        },
        run: Box::new(run),
        rates: Vec::new(),
    }
}

fn gemm_crate(tokens: usize, (rows, cols): (usize, usize)) -> Subject {
    let x = vec![1.5_f32; tokens * cols];
    let w = vec![0.5_f32; rows * cols];
    let mut out = vec![0.0_f32; tokens * rows];
    Subject {
        name: format!("gemm crate F32 {tokens} x {rows} x {cols}"),
        work: 2.0 * (tokens * rows * cols) as f64,
        ceiling: 0,
        run: Box::new(move || {
            matrix::multiply(
                View::new(&x, tokens, cols, cols),
                View::new(&w, rows, cols, cols).transposed(),
                1.0,
                Onto::Overwrite,
                &mut Block::new(&mut out, tokens, rows),
            );
            black_box(&out);
        }),
        rates: Vec::new(),
    }
}
