//! Products of many tokens: interleaving the tokens, packing the weights a panel at a time, multiplying.

use std::hint::black_box;

use qbench_cpu_kernels::{
    InstructionSet, Interleaved, Operand, fill,
    matrix::{self, Block, Onto, SharedMatrix, View},
    multiply,
};

use crate::{
    Subject,
    ceilings::Limit,
    weights::{Weights, elements},
};

const TOKENS: [usize; 3] = [12, 256, 1000];

/// Weight rows and columns of a model with hidden size 768.
const SHAPES: [(usize, usize); 3] = [(768, 768), (3072, 768), (768, 3072)];

/// Weight rows that are packed at once, as a backend's task takes them.
const PANEL: usize = 128;

pub(crate) fn all(set: InstructionSet) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for tokens in TOKENS {
        for shape in SHAPES {
            subjects.push(gemm_crate(tokens, shape));
            for operand in [Operand::F32, Operand::for_bf16(set), Operand::for_i8(set)] {
                let name = format!("tile {operand:?}");
                subjects.push(tile(
                    set,
                    &name,
                    operand,
                    Weights::dense(operand, shape),
                    tokens,
                    shape,
                ));
            }
            for operand in [Operand::F32, Operand::for_bf16(set)] {
                let name = format!("tile 4-bit {operand:?}");
                subjects.push(tile(set, &name, operand, Weights::codes(shape), tokens, shape));
            }
        }
    }
    subjects
}

fn tile(
    set: InstructionSet,
    name: &str,
    operand: Operand,
    weights: Weights,
    tokens: usize,
    (rows, cols): (usize, usize),
) -> Subject {
    let x = elements(operand, tokens * cols);
    let mut interleaved = Interleaved::tokens(operand);
    let mut panel = Interleaved::panel(operand);
    let mut floats = vec![0.0_f32; tokens * rows];
    let mut integers = vec![0_i32; tokens * rows];
    let mut scratch = Vec::new();
    let row_bytes = cols * operand.size();
    let run = move || {
        interleaved.resize(tokens, cols);
        let lanes = interleaved.lanes();
        for (first, group) in interleaved.groups_mut() {
            let last = (first + lanes).min(tokens);
            fill(
                set,
                group,
                lanes,
                &x[first * row_bytes..last * row_bytes],
                row_bytes,
                0,
            );
        }
        let (shared_f, shared_i) = (
            SharedMatrix::new(&mut floats, tokens, rows),
            SharedMatrix::new(&mut integers, tokens, rows),
        );
        for first in (0..rows).step_by(PANEL) {
            let last = (first + PANEL).min(rows);
            panel.resize(last - first, cols);
            let lanes = panel.lanes();
            for (start, group) in panel.groups_mut() {
                let part = first + start..(first + start + lanes).min(last);
                let bytes = weights.rows(set, operand, part, cols, &mut scratch);
                fill(set, group, lanes, bytes, row_bytes, 0);
            }
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
    Subject::new(
        format!("{name} {tokens} x {rows} x {cols}"),
        2 * tokens * rows * cols,
        match operand {
            Operand::F32 => Limit::Float,
            Operand::Bf16 => Limit::Bf16,
            Operand::I16 | Operand::I8 => Limit::Integer,
        },
        run,
    )
}

fn gemm_crate(tokens: usize, (rows, cols): (usize, usize)) -> Subject {
    let x = vec![1.5_f32; tokens * cols];
    let w = vec![0.5_f32; rows * cols];
    let mut out = vec![0.0_f32; tokens * rows];
    Subject::new(
        format!("gemm crate F32 {tokens} x {rows} x {cols}"),
        2 * tokens * rows * cols,
        Limit::Float,
        move || {
            matrix::multiply(
                View::new(&x, tokens, cols, cols),
                View::new(&w, rows, cols, cols).transposed(),
                1.0,
                Onto::Overwrite,
                &mut Block::new(&mut out, tokens, rows),
            );
            black_box(&out);
        },
    )
}
